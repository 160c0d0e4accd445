"""Which part of an image is kept, and at which size: a value, before a pixel is decoded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from steppe.core.errors import SteppeError, unknown

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
"""Pillow's filters; where an image shrinks, all but nearest weigh every pixel (antialias)."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Frame:
    """A box of an image, scaled to a size.

    Args:
        box: left, top, right, bottom in pixels of the stored image, upright.
        size: width and height of what comes out.
        filter: of Pillow.
        draft: whether a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size where that still has
            at least ``size`` pixels for the box.

    Example:
        >>> Frame((0, 0, 2, 2), (1, 1), FILTERS["box"]).of(Image.new("L", (4, 2), 9)).size
        (1, 1)
    """

    box: Box
    size: tuple[int, int]
    filter: Image.Resampling
    draft: bool = False

    def of(self, image: Image.Image, shrunk: float = 1.0) -> Image.Image:
        """The box of an image that was decoded at a fraction of its size."""
        right, bottom = image.size
        left, top, *ends = (shrunk * edge for edge in self.box)
        box = (left, top, min(ends[0], right), min(ends[1], bottom))
        if image.size == self.size and box == (0, 0, right, bottom):
            return image
        return image.resize(self.size, self.filter, box=box)

    def least(self, width: int, height: int) -> tuple[int, int]:
        """How large the whole image must be for the box to have the pixels that come out."""
        left, top, right, bottom = self.box
        return (
            math.ceil(self.size[0] * width / (right - left)),
            math.ceil(self.size[1] * height / (bottom - top)),
        )


Framing = Callable[[int, int], Frame]
"""Width and height of an upright image -> the frame."""


def filter_of(name: str) -> Image.Resampling:
    """One of Pillow's filters by name.

    Raises:
        SteppeError: there is no such filter.

    Example:
        >>> filter_of("bicubic").name
        'BICUBIC'
    """
    if name not in FILTERS:
        raise unknown("interpolation", name, FILTERS)
    return FILTERS[name]


@dataclass(frozen=True)
class ResizeCenterCrop:
    """The middle of an image: scale the shorter side, then cut a square out of the middle.

    Scaling and cutting are one step, which gives what the two steps give up to rounding of a level.

    Args:
        size: side of the square.
        resize: length of the shorter side before the cut, as the ImageNet pipelines have it (256
            for 224); None: ``size``, so that the square covers the whole shorter side.
        interpolation: a name of `FILTERS`.

    Raises:
        SteppeError: a shorter side below the square's, or an unknown filter.

    Source: He et al. 2016, section 4.1 (224 of 256).

    Example:
        >>> ResizeCenterCrop(224, 256)(500, 400).box
        (75.0, 25.0, 425.0, 375.0)
    """

    size: int
    resize: int | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        filter_of(self.interpolation)
        if self.size < 1:
            raise SteppeError("size must be a number of pixels, 1 or more", got=self.size)
        if self.resize is not None and self.resize < self.size:
            raise SteppeError(
                "the shorter side must cover the square that is cut out",
                got=f"resize {self.resize} for size {self.size}",
                way_out="resize 256 for size 224, or leave resize out",
            )

    def __call__(self, width: int, height: int) -> Frame:
        """The frame of an image of this width and height."""
        box = (
            _covering(width, height)
            if self.resize is None
            else self._cut(width, height, self.resize)
        )
        return Frame(box, (self.size, self.size), FILTERS[self.interpolation])

    def _cut(self, width: int, height: int, shorter: int) -> Box:
        """In pixels of the stored image; both sides and the offsets are whole after scaling."""
        least = min(width, height)
        scaled = [int(shorter * side / least) for side in (width, height)]
        left, top = (round((side - self.size) / 2.0) for side in scaled)
        across, down = width / scaled[0], height / scaled[1]
        return (
            left * across,
            top * down,
            min((left + self.size) * across, width),
            min((top + self.size) * down, height),
        )


def _covering(width: int, height: int) -> Box:
    """The largest square in the middle, as ``PIL.ImageOps.fit`` has it."""
    side = float(min(width, height))
    left, top = (width - side) * 0.5, (height - side) * 0.5
    return (left, top, left + side, top + side)
