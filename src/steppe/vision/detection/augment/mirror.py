"""Left to right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from steppe.vision.augment import check_number
from steppe.vision.detection.augment import AUGMENTATIONS, Augmentation, View


@AUGMENTATIONS.register("mirror")
@dataclass(frozen=True, kw_only=True)
class Mirror(Augmentation):
    """Mirror an image left to right.

    Args:
        chance: that it is done.

    Raises:
        SteppeError: it is no probability.
    """

    chance: float = 0.5

    def __post_init__(self) -> None:
        check_number("mirror: chance", self.chance, 0, 1)

    def seen(self, view: View, draw: Random) -> View:
        if draw.random() >= self.chance:
            return view
        objects = view.objects.clone()
        objects[:, [0, 2]] = 1 - objects[:, [2, 0]]
        return replace(view, mirrored=not view.mirrored, objects=objects)
