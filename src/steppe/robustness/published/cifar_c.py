"""CIFAR-10-C and CIFAR-100-C: a NumPy file for each corruption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.robustness.corruptions import SEVERITIES
from steppe.robustness.published import (
    PUBLISHED,
    Fit,
    LabelledImages,
    Layout,
    Shape,
    check_labels,
    pixels,
)


@PUBLISHED.register("cifar_c")
class CifarC(Layout):
    """NAME.npy of shape [5 n, h, w, 3] in eight bits, by severity, and labels.npy.

    Source: Hendrycks & Dietterich 2019, the files as released.
    """

    on = "corruptions"
    description = "NAME.npy and labels.npy (CIFAR-10-C)"
    files = ("*.npy",)

    @classmethod
    def matches(cls, folder: Path) -> bool:
        return any(folder.glob("*.npy"))

    def variants(self) -> list[str]:
        return sorted(p.stem for p in self.folder.glob("*.npy") if p.stem != "labels")

    def check(self, classes: int, names: Sequence[str], severities: Sequence[int] = ()) -> None:
        asked = [f"{name}.npy" for name in [*names, "labels"]]
        missing = [file for file in asked if not (self.folder / file).is_file()]
        if missing:
            raise SteppeError(
                "a published set has a file for each corruption, and labels.npy",
                got=f"no {', '.join(missing)} in {self.folder}",
                way_out="--corruptions with the names that are there; labels.npy belongs to the "
                "published archive",
            )
        for name in names:
            _, labels, _ = self._arrays(name)
            check_labels(torch.from_numpy(np.array(labels)), classes)

    def images(
        self, name: str, shape: Shape, severity: int | None = None, fit: Fit | None = None
    ) -> LabelledImages:
        stored, labels, count = self._arrays(name)
        start = ((severity or 1) - 1) * count
        if len(labels) > count:
            labels = labels[start : start + count]

        def read(chosen: slice) -> Tensor:
            # mapped into memory: only these images are read
            batch = np.array(stored[start + chosen.start : start + chosen.stop])
            if stored.shape[1:3] == shape[1:]:
                images = torch.from_numpy(batch).permute(0, 3, 1, 2).contiguous().float() / 255
            else:
                own = [Image.fromarray(image) for image in batch]
                images = pixels(own if fit is None else list(map(fit, own)), shape)
            return images[:, : shape[0]]

        return LabelledImages(torch.from_numpy(np.array(labels)).long(), read)

    def _arrays(self, name: str) -> tuple[Any, Any, int]:
        """Images of all severities, labels, and the number of images of one severity."""
        stored, labels = self._open(name), self._open("labels")
        count, remainder = divmod(len(stored) if stored.ndim else 0, len(SEVERITIES))
        shaped = stored.ndim == 4 and stored.shape[-1] == 3 and stored.dtype == np.uint8
        integer = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
        if (
            remainder
            or not count
            or not shaped
            or not integer
            or len(labels) not in (count, len(stored))
        ):
            raise SteppeError(
                "a published file holds five severities of the same images, [5 n, h, w, 3] uint8, "
                "and labels.npy whole numbers, one for each",
                got=f"{name}.npy with {list(stored.shape)} {stored.dtype}, labels.npy with "
                f"{list(labels.shape)} {labels.dtype}",
                way_out="fetch it again",
            )
        return stored, labels, count

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
