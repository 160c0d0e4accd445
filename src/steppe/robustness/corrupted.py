"""Accuracy on corrupted images, computed here or published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError, unknown
from steppe.robustness.corruption_error import corruption_error, relative_robustness
from steppe.robustness.corruptions import CORRUPTIONS, SEVERITIES, check_images, corrupt
from steppe.robustness.published import Fit, LabelledImages, accuracies_on
from steppe.robustness.published import published as published_set
from steppe.robustness.surface import evaluating


def parse_selection(corruptions: str | None, severities: str) -> tuple[list[str], list[int]]:
    """Names and severities from comma-separated text; all names when there is none.

    Example:
        >>> parse_selection("fog, snow", "3,5")
        (['fog', 'snow'], [3, 5])
    """
    names = list(CORRUPTIONS) if corruptions is None else corruptions.split(",")
    names = list(dict.fromkeys(name.strip() for name in names))
    for name in names:
        if name not in CORRUPTIONS:
            raise unknown("corruption", name, CORRUPTIONS)
    numbers = list(dict.fromkeys(number.strip() for number in severities.split(",")))
    if any(n not in map(str, SEVERITIES) for n in numbers):
        raise SteppeError("severities are 1 to 5", got=severities, way_out="--severities 3,5")
    return names, [int(n) for n in numbers]


def at_severities(severities: Sequence[int]) -> str:
    """Which severities, where not all five were taken; for a sentence.

    Example:
        >>> at_severities([3]), at_severities([3, 5]), at_severities(SEVERITIES)
        (' at severity 3', ' at severities 3, 5', '')
    """
    if sorted(severities) == list(SEVERITIES):
        return ""
    word = "severity" if len(severities) == 1 else "severities"
    return f" at {word} {', '.join(map(str, severities))}"


def worst_of(table: Mapping[str, Mapping[str, float]]) -> str:
    """Which of several kinds has the least figure at any severity, for the end of a sentence.

    Args:
        table: kind -> severity -> figure.

    Example:
        >>> worst_of({"fog": {"1": 0.5, "3": 0.2}, "snow": {"1": 0.3, "3": 0.3}})
        '; worst: fog'
        >>> worst_of({"fog": {"1": 0.5}})
        ''
    """
    worst = min(table, key=lambda name: min(table[name].values()))
    return f"; worst: {worst}" if len(table) > 1 else ""


@torch.no_grad()
def accuracy_under_corruption(
    model: nn.Module,
    images: Tensor | LabelledImages,
    labels: Tensor | None = None,
    *,
    names: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    published: str | Path | None = None,
    reference: nn.Module | None = None,
    batch_size: int = 500,
    seed: int = 0,
    fit: Fit | None = None,
) -> dict[str, Any]:
    """The share of corrupted images that a network gets right, by corruption and severity.

    R_C and the errors are those of `corruption_error`, over the severities asked for.

    Args:
        model: pixels in [0, 1] -> logits ``[n, classes]``, normalisation inside; eval mode.
        images: ``[n, c, h, w]`` in [0, 1], or what reads them when they are needed; grey ones
            (c = 1) are corrupted as three equal channels, of which the first is used.
        labels: ``[n]``, where images are a tensor.
        names: of the corruptions; all when left out.
        severities: of 1 to 5.
        published: a folder of the published images, or a dataset's id, which then are used
            (`steppe.robustness.published` has the layouts: CIFAR-10-C, ImageNet-C).
        reference: another network of the same pixels and classes, for the corruption error.
        batch_size: images in a forward pass; changes no pixel.
        seed: of the corruptions computed here.
        fit: brings published images of another size to that of the network; None scales them to
            cover it and crops to the middle.

    Returns:
        ``clean``, ``accuracy`` (name -> severity -> fraction), the keys of `relative_robustness`,
        ``images`` (of each kind and severity; the fewest), ``clean_images``, ``source``, ``seed``;
        with a reference, ``beside``: its ``clean``, ``accuracy`` and keys of `corruption_error`.

    Raises:
        SteppeError: no images, images outside [0, 1], published images that are not there or not
            of the network's classes.

    Source: Hendrycks & Dietterich 2019.
    """
    names = list(CORRUPTIONS) if names is None else list(names)
    given = LabelledImages.of(images, labels)
    first = given.read(slice(0, 1))
    channels, height, width = first.shape[1:]

    def coloured(x: Tensor) -> Tensor:
        return x.expand(-1, 3, -1, -1) if channels == 1 else x

    check_images(coloured(images if isinstance(images, Tensor) else first))
    device = next((p.device for p in model.parameters()), first.device)
    layout = None if published is None else published_set(published, "corruptions")

    def corrupted(name: str, severity: int) -> LabelledImages:
        if layout is not None:
            return layout.images(name, (channels, height, width), severity, fit)

        def read(chosen: slice) -> Tensor:
            x = coloured(given.read(chosen)).to(device)
            return corrupt(x, name, severity, seed=seed, first=chosen.start)[:, :channels]

        return LabelledImages(given.labels, read)

    models = [model] if reference is None else [model, reference]
    counts: list[int] = []
    by_model: list[dict[str, dict[str, float]]] = [{name: {} for name in names} for _ in models]
    with ExitStack() as stack:
        for network in models:
            stack.enter_context(evaluating(network))
        if layout is not None:
            layout.check(model(first.to(device)).shape[1], names, severities)
        clean = accuracies_on(models, given, batch_size)
        for name, severity in product(names, severities):
            kind = corrupted(name, severity)
            counts.append(len(kind.labels))
            shares = accuracies_on(models, kind, batch_size)
            for own, share in zip(by_model, shares, strict=True):
                own[name][str(severity)] = share
    own = by_model[0]
    result: dict[str, Any] = {"clean": clean[0], "accuracy": own}
    # published images are other ones than the run's own, and as many as there are
    result |= {"images": min(counts, default=0), "clean_images": len(given.labels), "seed": seed}
    result |= relative_robustness(own, clean[0])
    if reference is not None:
        theirs = {"clean": clean[1], "accuracy": by_model[1]}
        result["beside"] = theirs | corruption_error(own, clean[0], by_model[1], clean[1])
    return result | {"source": "made here" if layout is None else str(published)}
