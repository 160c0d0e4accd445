"""Zoom in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from steppe.vision.detection.augment import AUGMENTATIONS, Augmentation, View
from steppe.vision.detection.boxes import iou

WHOLE = None
TRIES, ROUNDS = 50, 20


@AUGMENTATIONS.register("crop")
@dataclass(frozen=True, kw_only=True)
class Crop(Augmentation):
    """A window that overlaps some object enough, or the whole image.

    Each time the least overlap is drawn from the whole image, any, 0.1, 0.3, 0.5, 0.7 and 0.9;
    the window's sides are 0.3 to 1 of the image's, its shape at most 2 to 1. Objects whose centre
    lies in it stay and are cut to it; a window without any is drawn anew.

    Args:
        least: side of a window, a share of the image's.
        overlaps: the least overlaps to draw from, beside the whole image.

    Source: Liu et al. 2016, section 2.2; sides from 0.3 as in their code.
    """

    least: float = 0.3
    overlaps: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)

    def seen(self, view: View, draw: Random) -> View:
        for _ in range(ROUNDS):
            wanted = draw.choice([WHOLE, *self.overlaps])
            if wanted is WHOLE:
                return view
            for _ in range(TRIES):
                found = self._window(view, wanted, draw)
                if found is not None:
                    return found
        return view

    def _window(self, view: View, wanted: float, draw: Random) -> View | None:
        width, height = (draw.uniform(self.least, 1.0) for _ in range(2))
        x, y, x_end, y_end = view.window
        shape = (width * (x_end - x)) / (height * (y_end - y))
        if not 0.5 <= shape <= 2.0:
            return None
        left, top = draw.uniform(0.0, 1.0 - width), draw.uniform(0.0, 1.0 - height)
        window = (left, top, left + width, top + height)
        objects = view.objects
        if not len(objects):
            return view.through(*window)
        inside = centred_in(objects, window)
        if not bool(inside.any()):
            return None
        if float(iou(torch.tensor([window]), objects[:, :4]).max()) < wanted:
            return None
        cut = replace(view, objects=objects[inside]).through(*window)
        cut.objects[:, :4].clamp_(0, 1)
        return cut


def centred_in(objects: Tensor, window: tuple[float, float, float, float]) -> Tensor:
    """Which objects have their centre in a window; ``[k]``, booleans."""
    centres = (objects[:, :2] + objects[:, 2:4]) / 2
    start, end = torch.tensor(window[:2]), torch.tensor(window[2:])
    return ((centres > start) & (centres < end)).all(1)
