"""Random brightness, contrast, saturation and hue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from PIL import Image, ImageEnhance

from steppe.vision.augment import AUGMENTATIONS, check_number
from steppe.vision.augment.kinds import ImageStep

_HUES = 256


@AUGMENTATIONS.register("color_jitter")
@dataclass(frozen=True)
class ColorJitter(ImageStep):
    """Change brightness, contrast, saturation and hue, in a random order.

    Args:
        brightness: factor uniform in [max(0, 1 - b), 1 + b].
        contrast: as brightness.
        saturation: as brightness.
        hue: turn of the colour circle, uniform in [-hue, hue], of which 1 is all; at most 0.5.

    Raises:
        SteppeError: a number out of range.

    Source: Krizhevsky et al. 2012 have the idea; these four are torchvision's ``ColorJitter``.

    Example:
        >>> ColorJitter(brightness=0.4)(Image.new("L", (1, 1), 100), Random(1)).getpixel((0, 0))
        70
    """

    name: ClassVar[str] = "color_jitter"
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for what in ("brightness", "contrast", "saturation"):
            check_number(f"color_jitter: {what}", getattr(self, what), 0, 100)
        check_number("color_jitter: hue", self.hue, 0, 0.5)

    def __call__(self, image: Image.Image, random: Random) -> Image.Image:
        factors: list[tuple[Callable[[Image.Image, float], Image.Image], float]] = [
            (_enhanced(kind), random.uniform(max(0.0, 1 - strength), 1 + strength))
            for kind, strength in (
                (ImageEnhance.Brightness, self.brightness),
                (ImageEnhance.Contrast, self.contrast),
                (ImageEnhance.Color, self.saturation),
            )
            if strength
        ]
        if self.hue:
            factors.append((turned, random.uniform(-self.hue, self.hue)))
        random.shuffle(factors)
        for change, factor in factors:
            image = change(image, factor)
        return image


def _enhanced(
    kind: Callable[[Image.Image], ImageEnhance._Enhance],
) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, factor: kind(image).enhance(factor)


def turned(image: Image.Image, turn: float) -> Image.Image:
    """The image with its hues turned by a part of the colour circle; grey ones have none.

    Example:
        >>> turned(Image.new("RGB", (1, 1), (255, 0, 0)), 1 / 3).getpixel((0, 0))
        (0, 255, 0)
    """
    if image.mode == "L":
        return image
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + round(turn * (_HUES - 1))) % _HUES for level in range(_HUES)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")
