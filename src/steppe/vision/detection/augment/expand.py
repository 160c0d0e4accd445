"""Zoom out."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from steppe.vision.augment import check_number
from steppe.vision.detection.augment import AUGMENTATIONS, Augmentation, View


@AUGMENTATIONS.register("expand")
@dataclass(frozen=True, kw_only=True)
class Expand(Augmentation):
    """Put an image somewhere on a larger one of the mean colour, so that objects are small.

    Args:
        most: the larger side is uniform in 1 to so many times the image's.
        chance: that it is done.

    Raises:
        SteppeError: a number out of range.

    Source: Liu et al. 2016, section 3.6.
    """

    most: float = 4.0
    chance: float = 0.5

    def __post_init__(self) -> None:
        check_number("expand: most", self.most, 1, 100)
        check_number("expand: chance", self.chance, 0, 1)

    def seen(self, view: View, draw: Random) -> View:
        if draw.random() >= self.chance:
            return view
        scale = draw.uniform(1.0, self.most)
        left, top = (draw.uniform(0.0, scale - 1.0) for _ in range(2))
        return view.through(-left, -top, scale - left, scale - top)
