"""Mirror an image left to right."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

from PIL import Image

from steppe.vision.augment import AUGMENTATIONS, check_number
from steppe.vision.augment.kinds import ImageStep


@AUGMENTATIONS.register("flip")
@dataclass(frozen=True)
class Flip(ImageStep):
    """Mirror left to right.

    Args:
        p: how often.

    Example:
        >>> image = Image.new("L", (2, 1)); image.putpixel((0, 0), 9)
        >>> Flip(p=1.0)(image, Random(0)).getpixel((1, 0))
        9
    """

    name: ClassVar[str] = "flip"
    p: float = 0.5

    def __post_init__(self) -> None:
        check_number("flip: p", self.p, 0, 1)

    def __call__(self, image: Image.Image, random: Random) -> Image.Image:
        if random.random() >= self.p:
            return image
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
