"""A few operations out of fourteen, all with one magnitude."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from PIL import Image, ImageEnhance, ImageOps

from steppe.core.errors import SteppeError
from steppe.vision.augment import AUGMENTATIONS, check_number
from steppe.vision.augment.kinds import ImageStep

_NEAREST = Image.Resampling.NEAREST


def _affine(a: float, b: float, c: float, d: float) -> Callable[[float], tuple[float, ...]]:
    """(magnitude) -> the six numbers of Pillow's affine map: x' = x + a m y + b m, and of y."""
    return lambda m: (1.0, a * m, b * m, c * m, 1.0, d * m)


def _moved(image: Image.Image, numbers: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, numbers, _NEAREST)


def _posterized(image: Image.Image, m: float) -> Image.Image:
    return ImageOps.posterize(image, 8 - round(4 * m))


def _solarized(image: Image.Image, m: float) -> Image.Image:
    return ImageOps.solarize(image, round(256 * (1 - m)))


_SIGNED: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "shear_x": lambda image, m: _moved(image, _affine(0.3, 0, 0, 0)(m)),
    "shear_y": lambda image, m: _moved(image, _affine(0, 0, 0.3, 0)(m)),
    "translate_x": lambda image, m: _moved(
        image, (1.0, 0.0, round(m * 150 / 331 * image.width), 0.0, 1.0, 0.0)
    ),
    "translate_y": lambda image, m: _moved(
        image, (1.0, 0.0, 0.0, 0.0, 1.0, round(m * 150 / 331 * image.height))
    ),
    "rotate": lambda image, m: image.rotate(30 * m, _NEAREST),
    "brightness": lambda image, m: ImageEnhance.Brightness(image).enhance(1 + 0.9 * m),
    "color": lambda image, m: ImageEnhance.Color(image).enhance(1 + 0.9 * m),
    "contrast": lambda image, m: ImageEnhance.Contrast(image).enhance(1 + 0.9 * m),
    "sharpness": lambda image, m: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * m),
}
"""Operations whose magnitude has either sign, with probability 1/2."""

_UNSIGNED: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, m: image,
    "posterize": _posterized,
    "solarize": _solarized,
    "autocontrast": lambda image, m: ImageOps.autocontrast(image),
    "equalize": lambda image, m: ImageOps.equalize(image),
}

OPERATIONS = (*_SIGNED, *_UNSIGNED)
"""The fourteen of the paper."""


@AUGMENTATIONS.register("rand_augment")
@dataclass(frozen=True)
class RandAugment(ImageStep):
    """``n`` operations, drawn anew for each image, all of magnitude ``m``.

    What moves out of an image is black where it came from.

    Args:
        n: operations.
        m: magnitude; ``bins - 1`` is the strongest.
        bins: magnitudes there are, from 0.

    Raises:
        SteppeError: a number out of range.

    Source: Cubuk et al. 2020, https://arxiv.org/abs/1909.13719; strengths as in torchvision.

    Example:
        >>> RandAugment(n=2, m=0)(Image.new("RGB", (2, 2), (9, 9, 9)), Random(0)).size
        (2, 2)
    """

    name: ClassVar[str] = "rand_augment"
    n: int = 2
    m: float = 9
    bins: int = 31

    def __post_init__(self) -> None:
        if not (isinstance(self.n, int) and self.n >= 1):
            raise SteppeError("rand_augment: n must be a whole number, 1 or more", got=self.n)
        if not (isinstance(self.bins, int) and self.bins >= 2):
            raise SteppeError("rand_augment: bins must be a whole number, 2 or more", got=self.bins)
        check_number("rand_augment: m", self.m, 0, self.bins - 1)

    def __call__(self, image: Image.Image, random: Random) -> Image.Image:
        strength = self.m / (self.bins - 1)
        for _ in range(self.n):
            name, sign = random.choice(OPERATIONS), random.choice((-1.0, 1.0))
            image = applied(image, name, strength, sign)
        return image


def applied(image: Image.Image, name: str, strength: float, sign: float = 1.0) -> Image.Image:
    """One operation.

    Args:
        image: of mode L or RGB.
        name: of `OPERATIONS`.
        strength: 0..1.
        sign: 1 or -1, for those that have one.

    Example:
        >>> applied(Image.new("L", (1, 1), 10), "solarize", 1.0).getpixel((0, 0))
        245
    """
    if name in _SIGNED:
        return _SIGNED[name](image, strength * sign)
    return _UNSIGNED[name](image, strength)
