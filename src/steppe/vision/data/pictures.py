"""A split's images, decoded one by one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from steppe.vision.data.blobs import Blobs
from steppe.vision.data.decode import picture, size_of
from steppe.vision.data.levels import Levels
from steppe.vision.framing import Framing


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images by their row in the dataset; worker processes get a copy.

    Args:
        blobs: encoded.
        levels: of the dataset.
        grey: one channel instead of three.
    """

    blobs: Blobs
    levels: Levels
    grey: bool

    @property
    def framing(self) -> Framing | None:
        """What evaluation keeps of an image."""
        return self.levels.reading.framing

    def size(self, row: int) -> tuple[int, int]:
        """Width and height of an image."""
        return size_of(self.blobs.blob(row), self.blobs.describe(row))

    def settle(self, row: int) -> None:
        """Find out here what worker processes would each find out: the range of deep images.

        Args:
            row: of an image that is used; those that are left out may be no images at all.
        """
        self.levels.settle(self.blobs.blob(row), self.blobs.describe(row))

    def of(self, row: int, framing: Framing | None, seed: int = 0) -> Image.Image:
        """An image of mode L or RGB, what ``framing`` keeps of it.

        Args:
            row: of it.
            framing: None keeps all.
            seed: of what reading it draws, where it is a user's code.

        Raises:
            SteppeError: it cannot be decoded.
        """
        name = self.blobs.describe(row)
        return picture(self.blobs.drawn(row, seed), name, self.grey, self.levels, framing)[0]

    def describe(self, row: int) -> str:
        """An image in words."""
        return self.blobs.describe(row)

    def order(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """In which order an epoch visits rows; see `Blobs.order`."""
        return self.blobs.order(rows, generator)


@dataclass(frozen=True, eq=False)
class DecodedPictures:
    """Images that are decoded already, seen as pictures, so that each can be changed by itself.

    Args:
        images: ``[n, c, h, w]``, uint8.
    """

    images: Tensor
    framing: Framing | None = None

    def of(self, row: int, framing: Framing | None, seed: int = 0) -> Image.Image:
        """An image of mode L or RGB, what ``framing`` keeps of it."""
        levels = self.images[row].permute(1, 2, 0).contiguous().numpy()
        image = Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)
        return image if framing is None else framing(*image.size).of(image)

    def describe(self, row: int) -> str:
        """An image in words."""
        return f"image {row}"
