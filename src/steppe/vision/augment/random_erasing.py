"""A random box of an image, painted over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from PIL import Image

from steppe.core.errors import SteppeError
from steppe.vision.augment import AUGMENTATIONS, check_number, check_range
from steppe.vision.augment.kinds import ImageStep


@AUGMENTATIONS.register("random_erasing")
@dataclass(frozen=True)
class RandomErasing(ImageStep):
    """Paint over a box of random area and shape at a random place.

    Args:
        p: how often.
        area: of the box as a share of the image's, uniform.
        ratio: height over width of the box, uniform in its logarithm.
        fill: levels 0..255 of red, green and blue, of which grey images take the mean; or
            ``noise``, a level for each pixel. The usual one is ImageNet's mean colour, which is
            zero once images are normalised.

    Raises:
        SteppeError: a number out of range.

    Source: Zhong et al. 2020, https://arxiv.org/abs/1708.04896.

    Example:
        >>> image = RandomErasing(p=1.0, fill=(9, 9, 9))(Image.new("L", (8, 8)), Random(0))
        >>> sorted(set(image.tobytes()))
        [0, 9]
    """

    name: ClassVar[str] = "random_erasing"
    p: float = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 10 / 3)
    fill: tuple[int, ...] | str = (124, 116, 104)

    def __post_init__(self) -> None:
        check_number("random_erasing: p", self.p, 0, 1)
        check_range("random_erasing: area", self.area, 0, 1)
        check_range("random_erasing: ratio", self.ratio, 1e-3, 1e3)
        colour = isinstance(self.fill, Sequence) and not isinstance(self.fill, str)
        levels = self.fill if colour else ()
        if self.fill != "noise" and not (
            len(levels) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in levels)
        ):
            raise SteppeError(
                "random_erasing: fill must be three levels of 0 to 255, or noise",
                got=repr(self.fill),
            )

    def __call__(self, image: Image.Image, random: Random) -> Image.Image:
        if random.random() >= self.p:
            return image
        width, height = image.size
        low, high = map(math.log, self.ratio)
        for _ in range(10):
            area = width * height * random.uniform(*self.area)
            ratio = math.exp(random.uniform(low, high))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w < width and 0 < h < height:
                left, top = random.randint(0, width - w), random.randint(0, height - h)
                image.paste(self._paint(image.mode, w, h, random), (left, top))
                break
        return image

    def _paint(self, mode: str, width: int, height: int, random: Random) -> Image.Image:
        if isinstance(self.fill, str):
            levels = random.randbytes(width * height * len(Image.new(mode, (1, 1)).getbands()))
            return Image.frombytes(mode, (width, height), levels)
        grey = round(sum(self.fill) / 3)
        return Image.new(mode, (width, height), grey if mode == "L" else tuple(self.fill))
