"""Other colours."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from PIL import Image, ImageEnhance

from steppe.vision.augment import check_number, check_range
from steppe.vision.augment.color_jitter import turned
from steppe.vision.detection.augment import AUGMENTATIONS, Augmentation


@AUGMENTATIONS.register("distort")
@dataclass(frozen=True, kw_only=True)
class Distort(Augmentation):
    """Brightness, contrast, saturation and hue, each by chance; contrast before or after colour.

    Args:
        brightness: levels of 255 that are added, at most, up or down.
        contrast: factors on the distance from the mean level.
        saturation: factors on the distance from grey.
        hue: degrees of 360, at most, either way.
        chance: that each is done.

    Raises:
        SteppeError: a number out of range.

    Source: the photometric distortions of Liu et al. 2016, section 2.2 (Howard 2013), with the
    ranges of their code.
    """

    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0
    chance: float = 0.5

    def __post_init__(self) -> None:
        check_number("distort: brightness", self.brightness, 0, 255)
        check_range("distort: contrast", self.contrast, 0, 100)
        check_range("distort: saturation", self.saturation, 0, 100)
        check_number("distort: hue", self.hue, 0, 180)
        check_number("distort: chance", self.chance, 0, 1)

    def coloured(self, image: Image.Image, draw: Random) -> Image.Image:
        # all numbers are drawn, so that one that is not used changes no other
        brighter = draw.uniform(-self.brightness, self.brightness)
        contrast, saturation = draw.uniform(*self.contrast), draw.uniform(*self.saturation)
        hue = draw.uniform(-self.hue, self.hue)
        bright, hard, strong, other = (draw.random() < self.chance for _ in range(4))
        first = draw.random() < 0.5
        if bright:
            image = image.point([_level(v + brighter) for v in range(256)] * len(image.getbands()))
        if hard and first:
            image = ImageEnhance.Contrast(image).enhance(contrast)
        if image.mode == "RGB":
            image = ImageEnhance.Color(image).enhance(saturation) if strong else image
            image = turned(image, hue / 360) if other else image
        if hard and not first:
            image = ImageEnhance.Contrast(image).enhance(contrast)
        return image


def _level(value: float) -> int:
    return min(max(round(value), 0), 255)
