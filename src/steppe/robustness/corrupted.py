"""Accuracy on corrupted images, computed here or published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError, unknown
from steppe.robustness.corruptions import CORRUPTIONS, SEVERITIES, check_images, corrupt
from steppe.robustness.published import LabelledImages, accuracy_on
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


@torch.no_grad()
def accuracy_under_corruption(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    names: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    published: str | Path | None = None,
    batch_size: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """The share of corrupted images that a network gets right, by corruption and severity.

    ``R_C = acc_C / acc_val`` with acc_C the mean over the corruptions that are not extra, and all
    severities asked for.

    Args:
        model: pixels in [0, 1] -> logits ``[n, classes]``, normalisation inside; eval mode.
        images: ``[n, c, h, w]`` in [0, 1]; grey ones (c = 1) are corrupted as three equal
            channels, of which the first is used.
        labels: ``[n]``.
        names: of the corruptions; all when left out.
        severities: of 1 to 5.
        published: a folder of the published images, or a dataset's id, which then are used
            (`steppe.robustness.published` has the layouts: CIFAR-10-C, ImageNet-C).
        batch_size: images in a forward pass; changes no pixel.
        seed: of the corruptions computed here.

    Returns:
        ``clean``, ``accuracy`` (name -> severity -> fraction), ``extra`` (names), ``mean`` over
        the corruptions that are not extra (over all asked for, if only extra ones were),
        ``mean_extra``, ``relative`` (R_C), ``images``, ``source``, ``seed``.

    Raises:
        SteppeError: no images, images outside [0, 1], published images that are not there or not
            of the network's classes.

    Source: Hendrycks & Dietterich 2019; R_C: AdaSAP.
    """
    names = list(CORRUPTIONS) if names is None else list(names)
    if not len(images) or len(images) != len(labels):
        raise SteppeError(
            "accuracy needs images and one label each",
            got=f"{len(images)} images, {len(labels)} labels",
        )
    channels, height, width = images.shape[1:]
    coloured = images.expand(-1, 3, -1, -1) if channels == 1 else images
    check_images(coloured)
    device = next((p.device for p in model.parameters()), images.device)
    layout = None if published is None else published_set(published, "corruptions")

    def computed(name: str, severity: int) -> LabelledImages:
        def read(chosen: slice) -> Tensor:
            x = coloured[chosen].to(device)
            return corrupt(x, name, severity, seed=seed, first=chosen.start)[:, :channels]

        return LabelledImages(labels, read)

    accuracy: dict[str, dict[str, float]] = {name: {} for name in names}
    with evaluating(model):
        if layout is not None:
            classes = model(images[:1].to(device)).shape[1]
            layout.check(classes, names, severities)
        uncorrupted = LabelledImages(labels, lambda chosen: images[chosen])
        clean = accuracy_on(model, uncorrupted, batch_size)
        for name in names:
            for severity in severities:
                if layout is None:
                    corrupted = computed(name, severity)
                else:
                    corrupted = layout.images(name, (channels, height, width), severity)
                accuracy[name][str(severity)] = accuracy_on(model, corrupted, batch_size)
    return _means(accuracy, clean) | {
        "images": len(images),
        "source": "made here" if layout is None else str(published),
        "seed": seed,
    }


def _means(accuracy: dict[str, dict[str, float]], clean: float) -> dict[str, Any]:
    by_extra: dict[bool, list[float]] = {False: [], True: []}
    for name, by_severity in accuracy.items():
        by_extra[CORRUPTIONS[name].extra] += by_severity.values()
    mean = fmean(by_extra[False] or by_extra[True])
    extra = [name for name in accuracy if CORRUPTIONS[name].extra]
    means: dict[str, Any] = {"clean": clean, "accuracy": accuracy, "extra": extra, "mean": mean}
    if by_extra[False] and by_extra[True]:
        means["mean_extra"] = fmean(by_extra[True])
    # a network that is never right has no accuracy to keep: 0, not a division by zero
    means["relative"] = mean / clean if clean else 0.0
    return means
