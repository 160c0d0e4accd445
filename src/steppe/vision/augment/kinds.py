"""The kinds of augmentation: of a whole batch, of one image, of pairs of images."""

from __future__ import annotations

from random import Random
from typing import ClassVar, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from steppe.vision.framing import Frame


@runtime_checkable
class Augmentation(Protocol):
    """Of a whole batch of decoded images: draws for it, and a function of images and draws.

    They are separate so that every example has the same draws, however a batch is split over ranks.
    """

    @property
    def normalised(self) -> bool:
        """Whether it is given normalised images rather than the stored ones."""

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Random numbers for n examples, [n, ...], on the CPU."""

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """[n, c, h, w] and [n, ...] -> [n, c, h, w], without randomness of its own."""


class FramingStep:
    """Which part of an image is kept; it sees the size alone, before a pixel is decoded."""

    name: ClassVar[str]

    def frame(self, width: int, height: int, size: int, random: Random) -> Frame:
        """The frame of an upright image.

        Args:
            width: of the image.
            height: of the image.
            size: side of what comes out (``data.size``).
            random: of this image in this epoch.
        """
        raise NotImplementedError


class ImageStep:
    """A change of one image that keeps its size."""

    name: ClassVar[str]
    frames: ClassVar[bool] = False
    """Whether it is given whole images and brings them to the size by itself."""

    def __call__(self, image: Image.Image, random: Random) -> Image.Image:
        """The changed image.

        Args:
            image: of mode L or RGB; it may be changed in place.
            random: of this image in this epoch.
        """
        raise NotImplementedError


class Mixing:
    """Images of a batch laid over each other, and their labels with them."""

    name: ClassVar[str]

    def draw(self, height: int, width: int, random: Random) -> tuple[float, ...]:
        """What a batch has in common; the first number is the share of an image's own label."""
        raise NotImplementedError

    def __call__(self, images: Tensor, partners: Tensor, draws: tuple[float, ...]) -> Tensor:
        """``[n, c, h, w]`` twice -> ``[n, c, h, w]``, a new tensor."""
        raise NotImplementedError
