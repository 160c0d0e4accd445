"""Accuracy on corrupted images, made here or published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError, unknown
from steppe.robustness.corruptions import CORRUPTIONS, SEVERITIES, check_images, corrupt
from steppe.robustness.surface import evaluating


def chosen(corruptions: str | None, severities: str) -> tuple[list[str], list[int]]:
    """Names and severities from comma-separated text; all names when there is none.

    Example:
        >>> chosen("fog, snow", "3,5")
        (['fog', 'snow'], [3, 5])
    """
    names = list(CORRUPTIONS) if corruptions is None else corruptions.split(",")
    names = [name.strip() for name in names]
    for name in names:
        if name not in CORRUPTIONS:
            raise unknown("corruption", name, CORRUPTIONS)
    numbers = [part.strip() for part in severities.split(",")]
    if not numbers or any(n not in map(str, SEVERITIES) for n in numbers):
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
        published: a folder of the published images, which then are used: ``NAME.npy`` of shape
            [5 n, h, w, 3] in eight bits and ``labels.npy``, as CIFAR-10-C has them.
        batch_size: images in a forward pass; changes no pixel.
        seed: of the corruptions made here.

    Returns:
        ``clean``, ``accuracy`` (name -> severity -> fraction), ``mean`` over the corruptions
        that are not extra (over all asked for, if only extra ones were), ``mean_extra``,
        ``relative`` (R_C), ``images``, ``source``, ``seed``.

    Raises:
        SteppeError: no images, images outside [0, 1], a published file that is not there.

    Source: Hendrycks & Dietterich 2019; R_C: AdaSAP.
    """
    names = list(CORRUPTIONS) if names is None else list(names)
    if not len(images) or len(images) != len(labels):
        raise SteppeError(
            "accuracy needs images and one label each",
            got=f"{len(images)} images, {len(labels)} labels",
        )
    grey = images.shape[1] == 1
    coloured = images.expand(-1, 3, -1, -1) if grey else images
    check_images(coloured)
    files = Published(Path(published), names) if published is not None else None
    device = next((p.device for p in model.parameters()), images.device)

    def right(source: Tensor, truth: Tensor, name: str, severity: int) -> int:
        found = 0
        for first in range(0, len(source), batch_size):
            x = source[first : first + batch_size].to(device)
            if name:
                x = corrupt(x, name, severity, seed=seed, first=first)
            guess = model(x[:, :1] if grey else x).argmax(1)
            found += int((guess == truth[first : first + batch_size].to(device)).sum())
        return found

    accuracy: dict[str, dict[str, float]] = {name: {} for name in names}
    with evaluating(model):
        clean = right(coloured, labels, "", 0) / len(images)
        for name in names:
            for severity in severities:
                if files is None:
                    share = right(coloured, labels, name, severity) / len(images)
                else:
                    x, y = files.read(name, severity)
                    share = right(x, y, "", 0) / len(x)
                accuracy[name][str(severity)] = share
    return _means(accuracy, clean) | {
        "images": len(images),
        "source": "made here" if files is None else str(published),
        "seed": seed,
    }


def _means(accuracy: dict[str, dict[str, float]], clean: float) -> dict[str, Any]:
    groups: dict[bool, list[float]] = {False: [], True: []}
    for name, cells in accuracy.items():
        groups[CORRUPTIONS[name].extra] += cells.values()
    usual = fmean(groups[False] or groups[True])
    found: dict[str, Any] = {"clean": clean, "accuracy": accuracy, "mean": usual}
    if groups[False] and groups[True]:
        found["mean_extra"] = fmean(groups[True])
    # 0 of nothing is nothing: a network that is never right keeps no share of it
    found["relative"] = usual / clean if clean else 0.0
    return found


class Published:
    """Corrupted images as they were published, from a folder of NumPy files.

    Args:
        folder: with NAME.npy for each name, and labels.npy.
        names: what will be read.

    Raises:
        SteppeError: a file is missing, or is not what it should be.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        missing = [f"{n}.npy" for n in [*names, "labels"] if not (folder / f"{n}.npy").is_file()]
        if missing:
            raise SteppeError(
                "a published set has a file for each corruption, and labels.npy",
                got=f"no {', '.join(missing)} in {folder}",
                way_out="--corruptions with the names that are there",
            )
        self._labels = self._open("labels")

    def _open(self, name: str) -> Any:
        path = self.folder / f"{name}.npy"
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise SteppeError(
                "a published set consists of readable NumPy files",
                got=f"{path} ({error})",
                way_out="fetch it again",
            ) from None

    def read(self, name: str, severity: int) -> tuple[Tensor, Tensor]:
        """Images ``[n, 3, h, w]`` in [0, 1] and labels ``[n]`` of one severity."""
        held = self._open(name)
        count, rest = divmod(len(held), len(SEVERITIES))
        shaped = held.ndim == 4 and held.shape[-1] == 3 and held.dtype == np.uint8
        if rest or not count or not shaped or len(self._labels) not in (count, len(held)):
            raise SteppeError(
                "a published file holds five severities of the same images, [5 n, h, w, 3] uint8",
                got=f"{name}.npy with {list(held.shape)} {held.dtype}, {len(self._labels)} labels",
                way_out="fetch it again",
            )
        part = slice((severity - 1) * count, severity * count)
        images = torch.from_numpy(np.array(held[part])).permute(0, 3, 1, 2).float() / 255
        labels = self._labels[part] if len(self._labels) > count else self._labels
        return images, torch.from_numpy(np.array(labels)).long()
