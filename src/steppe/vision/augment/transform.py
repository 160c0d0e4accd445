"""A transform of the user's or of torchvision, as an augmentation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from steppe.core.errors import SteppeError
from steppe.core.seeded import seeded
from steppe.core.user_code import found
from steppe.vision.augment import AUGMENTATIONS
from steppe.vision.augment.kinds import ImageStep
from steppe.vision.streaming.faults import of_user


@AUGMENTATIONS.register("transform")
@dataclass(frozen=True)
class Transform(ImageStep):
    """Call the user's transform on every whole image; it brings images to the size by itself.

    The generators of Python, numpy and torch are set from (seed, epoch, image) before the call and
    put back after it, so any transform that draws from them gives the same for any number of
    workers.

    Args:
        function: an image -> an image (Pillow's, or a uint8 tensor ``[c, h, w]``), such as those of
            ``torchvision.transforms.v2``; or ``package.module:function``, which gives such a
            function when it is called with nothing.

    Raises:
        SteppeError: there is no such function; on a call, it fails, or what comes back is no image.

    Example:
        >>> flipped = Transform(lambda image: image.transpose(0))
        >>> flipped(Image.new("L", (2, 1)), Random(0)).size
        (2, 1)
    """

    name: ClassVar[str] = "transform"
    frames: ClassVar[bool] = True
    function: Callable[[Any], Any] | str

    def __post_init__(self) -> None:
        if isinstance(self.function, str):
            object.__setattr__(self, "function", found(self.function)())
        if not callable(self.function):
            raise SteppeError(
                "a transform is called with an image",
                got=type(self.function).__name__,
                way_out="torchvision.transforms.v2.Compose([...]), or package.module:function",
            )

    def __call__(self, image: Image.Image, random: Random) -> Image.Image:
        assert callable(self.function)
        with of_user(self.function), seeded(random.getrandbits(32)):
            made = self.function(image)
        return as_image(made)


def as_image(made: Any, name: str = "") -> Image.Image:
    """An image of Pillow from what a user's code gave.

    Args:
        made: an image, or a uint8 tensor or array: ``[c, h, w]`` of a tensor, ``[h, w(, c)]`` of
            an array.
        name: of it, for an error message.

    Raises:
        SteppeError: it is something else; a tensor of floats, say.

    Example:
        >>> as_image(torch.zeros(3, 2, 4, dtype=torch.uint8)).size
        (4, 2)
    """
    if isinstance(made, Image.Image):
        return made
    if isinstance(made, torch.Tensor) and made.dtype == torch.uint8 and made.ndim == 3:
        made = made.permute(1, 2, 0).cpu().numpy()
        made = made[:, :, 0] if made.shape[2] == 1 else made
    if isinstance(made, np.ndarray) and made.dtype == np.uint8 and made.ndim in (2, 3):
        return Image.fromarray(made)
    shape = f" {list(made.shape)} {made.dtype}" if hasattr(made, "shape") else ""
    raise SteppeError(
        "images are Pillow's, or uint8 tensors [c, h, w]",
        got=f"{type(made).__name__}{shape}" + (f" as {name}" if name else ""),
        way_out="leave out what turns images to floats and normalises: steppe does that",
    )
