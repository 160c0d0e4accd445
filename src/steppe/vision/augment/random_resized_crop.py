"""A random box of an image, scaled to the size of all: what ImageNet is trained with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from steppe.vision.augment import AUGMENTATIONS, check_range
from steppe.vision.augment.kinds import FramingStep
from steppe.vision.framing import Frame, filter_of


@AUGMENTATIONS.register("random_resized_crop")
@dataclass(frozen=True)
class RandomResizedCrop(FramingStep):
    """A box of random area and shape at a random place, scaled to ``data.size``.

    Ten tries; where no box fits, the middle of the image with the nearest allowed shape.

    Args:
        scale: area of the box as a share of the image's, uniform.
        ratio: width over height of the box, uniform in its logarithm.
        interpolation: a filter of Pillow.
        draft: decode a JPEG at 1/2, 1/4 or 1/8 where the box still has as many pixels as come out:
            faster, and the pixels differ slightly. The boxes are the same.

    Raises:
        SteppeError: a range that is none, or an unknown filter.

    Source: Szegedy et al. 2015, section 6, https://arxiv.org/abs/1409.4842.

    Example:
        >>> RandomResizedCrop().frame(500, 400, 224, Random(0)).size
        (224, 224)
    """

    name: ClassVar[str] = "random_resized_crop"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    draft: bool = True

    def __post_init__(self) -> None:
        check_range("random_resized_crop: scale", self.scale, 1e-6, 1)
        check_range("random_resized_crop: ratio", self.ratio, 1e-3, 1e3)
        filter_of(self.interpolation)

    def frame(self, width: int, height: int, size: int, random: Random) -> Frame:
        left, top, w, h = self._box(width, height, random)
        box = (left, top, left + w, top + h)
        return Frame(box, (size, size), filter_of(self.interpolation), self.draft)

    def _box(self, width: int, height: int, random: Random) -> tuple[int, int, int, int]:
        low, high = map(math.log, self.ratio)
        for _ in range(10):
            area = width * height * random.uniform(*self.scale)
            ratio = math.exp(random.uniform(low, high))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return random.randint(0, width - w), random.randint(0, height - h), w, h
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
        return (width - w) // 2, (height - h) // 2, w, h
