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
from steppe.robustness.published import PUBLISHED, Layout, Part, Shape, check_labels, pixels


@PUBLISHED.register("cifar_c")
class CifarC(Layout):
    """NAME.npy of shape [5 n, h, w, 3] in eight bits, by severity, and labels.npy.

    Source: Hendrycks & Dietterich 2019, the files as released.
    """

    on = "corruptions"
    looks = "NAME.npy and labels.npy (CIFAR-10-C)"
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
            _, labels, _ = self._of(name)
            check_labels(torch.from_numpy(np.array(labels)), classes)

    def part(self, name: str, shape: Shape, severity: int | None = None) -> Part:
        held, labels, count = self._of(name)
        start = ((severity or 1) - 1) * count
        if len(labels) > count:
            labels = labels[start : start + count]

        def read(chosen: slice) -> Tensor:
            # mapped into memory: only these images are read
            some = np.array(held[start + chosen.start : start + chosen.stop])
            if held.shape[1:3] == shape[1:]:
                found = torch.from_numpy(some).permute(0, 3, 1, 2).contiguous().float() / 255
            else:
                found = pixels([Image.fromarray(image) for image in some], shape)
            return found[:, : shape[0]]

        return Part(torch.from_numpy(np.array(labels)).long(), read)

    def _of(self, name: str) -> tuple[Any, Any, int]:
        """Images of all severities, labels, and the number of images of one severity."""
        held, labels = self._open(name), self._open("labels")
        count, rest = divmod(len(held) if held.ndim else 0, len(SEVERITIES))
        shaped = held.ndim == 4 and held.shape[-1] == 3 and held.dtype == np.uint8
        whole = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
        if rest or not count or not shaped or not whole or len(labels) not in (count, len(held)):
            raise SteppeError(
                "a published file holds five severities of the same images, [5 n, h, w, 3] uint8, "
                "and labels.npy whole numbers, one for each",
                got=f"{name}.npy with {list(held.shape)} {held.dtype}, labels.npy with "
                f"{list(labels.shape)} {labels.dtype}",
                way_out="fetch it again",
            )
        return held, labels, count

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
