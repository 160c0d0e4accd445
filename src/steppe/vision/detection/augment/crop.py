"""Zoom in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from steppe.vision.augment import check_number, check_numbers
from steppe.vision.detection.augment import AUGMENTATIONS, Augmentation, View
from steppe.vision.detection.boxes import iou
from steppe.vision.detection.targets import CROWD

WHOLE = None
TRIES, ROUNDS = 50, 20


@AUGMENTATIONS.register("crop")
@dataclass(frozen=True, kw_only=True)
class Crop(Augmentation):
    """A window that overlaps some object enough, or the whole image.

    Each time the least overlap is drawn from the whole image, any, 0.1, 0.3, 0.5, 0.7 and 0.9;
    the window's sides are 0.3 to 1 of the image's, its shape at most 2 to 1, or the image's own
    where that is longer. Objects whose centre lies in it stay and are cut to it; a window without
    any is drawn anew. Crowds, which are not learned, choose no window.

    Args:
        least: side of a window, a share of the image's.
        overlaps: the least overlaps to draw from, beside the whole image.

    Raises:
        SteppeError: a side or an overlap that no window can have, or no overlap at all.

    Source: Liu et al. 2016, section 2.2; sides from 0.3 as in their code.
    """

    least: float = 0.3
    overlaps: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)

    def __post_init__(self) -> None:
        check_number("crop: least", self.least, 0.01, 1)
        check_numbers("crop: overlaps", self.overlaps, 0, 1)

    def seen(self, view: View, draw: Random) -> View:
        for _ in range(ROUNDS):
            wanted = draw.choice([WHOLE, *self.overlaps])
            if wanted is WHOLE:
                return view
            found = self._found(view, wanted, draw)
            if found is not None:
                return found
        return view

    def _found(self, view: View, wanted: float, draw: Random) -> View | None:
        """The first of some windows that will do."""
        x, y, x_end, y_end = view.window
        stretch = (x_end - x) / (y_end - y)
        windows = []
        for _ in range(TRIES):
            width, height = (draw.uniform(self.least, 1.0) for _ in range(2))
            left, top = draw.uniform(0.0, 1.0 - width), draw.uniform(0.0, 1.0 - height)
            if min(0.5, stretch) <= stretch * width / height <= max(2.0, stretch):
                windows.append((left, top, left + width, top + height))
        single = view.objects[:, 5] != CROWD
        if not windows:
            return None
        inside, first = centred_in(view.objects, windows), 0
        if single.any():
            overlaps = iou(torch.tensor(windows), view.objects[single, :4]).amax(1)
            fit = (inside[:, single].any(1) & (overlaps >= wanted)).nonzero()
            if not len(fit):
                return None
            first = int(fit[0])
        cut = replace(view, objects=view.objects[inside[first]]).through(*windows[first])
        cut.objects[:, :4].clamp_(0, 1)
        return cut


def centred_in(objects: Tensor, windows: Sequence[tuple[float, float, float, float]]) -> Tensor:
    """Which objects have their centre in which windows; ``[windows, k]``, booleans."""
    centres = (objects[:, :2] + objects[:, 2:4]) / 2
    whole = torch.tensor(windows)[:, None]
    return ((centres > whole[..., :2]) & (centres < whole[..., 2:])).all(-1)
