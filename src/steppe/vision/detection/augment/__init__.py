"""Augmentation that moves boxes with their images: values, one file each."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from steppe.core.errors import SteppeError, unknown
from steppe.core.registry import Registry


@dataclass(frozen=True, eq=False)
class View:
    """What of an image is shown, before any pixel is touched.

    Args:
        size: width and height of the image.
        window: left, top, right, bottom in the image's pixels; it may reach beyond the image.
        mirrored: left to right, after that.
        objects: ``[k, 6]``, boxes as shares of the window.
    """

    size: tuple[int, int]
    window: tuple[float, float, float, float]
    mirrored: bool = False
    objects: Tensor = field(default_factory=lambda: torch.zeros(0, 6))

    @classmethod
    def whole(cls, size: tuple[int, int], objects: Tensor) -> View:
        """All of an image."""
        return cls(size, (0.0, 0.0, float(size[0]), float(size[1])), objects=objects)

    def through(self, left: float, top: float, right: float, bottom: float) -> View:
        """What of the view is seen through a window in it, or around it; shares of the view.

        Boxes move along and are not cut.

        Example:
            >>> view = View.whole((100, 50), torch.tensor([[0.5, 0.0, 0.75, 0.5, 0, 0]]))
            >>> half = view.through(0.5, 0.0, 1.0, 1.0)
            >>> half.window, half.objects[0, :4].tolist()
            ((50.0, 0.0, 100.0, 50.0), [0.0, 0.0, 0.5, 0.5])
        """
        x, y, x_end, y_end = self.window
        width, height = x_end - x, y_end - y
        first, last = (1 - right, 1 - left) if self.mirrored else (left, right)
        window = (x + first * width, y + top * height, x + last * width, y + bottom * height)
        start = torch.tensor([left, top] * 2)
        extent = torch.tensor([right - left, bottom - top] * 2)
        objects = self.objects.clone()
        objects[:, :4] = (objects[:, :4] - start) / extent
        return replace(self, window=window, objects=objects)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """One kind of change; a part overrides the half that it is about."""

    def seen(self, view: View, draw: Random) -> View:
        """Another view, by draws of this image alone."""
        return view

    def coloured(self, image: Image.Image, draw: Random) -> Image.Image:
        """Other colours of the image that the network will see."""
        return image


Augmentations = tuple[Augmentation, ...]

AUGMENTATIONS: Registry[type[Augmentation]] = Registry(
    "augmentation of boxes", "steppe.vision.detection.augment"
)
NAMED: dict[str, tuple[str, ...]] = {
    "ssd": ("distort", "expand", "crop", "mirror"),
    "auto": ("distort", "expand", "crop", "mirror"),
    "none": (),
}
"""What a name stands for."""


def augmentations(what: Any) -> Augmentations:
    """What a recipe's ``augment`` means.

    Args:
        what: a name (``ssd``, ``none``), or a list of parts: names, or a name with options
            (``[mirror, {expand: {most: 2}}]``), which are done in this order.

    Raises:
        SteppeError: there is no such part, it has no such option, or the option's value is wrong.

    Example:
        >>> [type(part).__name__ for part in augmentations("ssd")]
        ['Distort', 'Expand', 'Crop', 'Mirror']
        >>> augmentations([{"expand": {"most": 2.0}}])[0].most
        2.0
    """
    if what is None:
        return ()
    if isinstance(what, str):
        if what not in NAMED and what not in AUGMENTATIONS:
            raise unknown(AUGMENTATIONS.kind, what, {*NAMED, *AUGMENTATIONS})
        what = NAMED.get(what, (what,))
    if not isinstance(what, Sequence):
        raise SteppeError("augment is a name or a list of parts", got=repr(what))
    return tuple(_part(one) for one in what)


def _part(one: Any) -> Augmentation:
    if isinstance(one, Augmentation):
        return one
    name, options = one, None
    if isinstance(one, Mapping) and len(one) == 1:
        name, options = next(iter(one.items()))
    kind = AUGMENTATIONS[name] if isinstance(name, str) else None
    if kind is None or not isinstance(options or {}, Mapping):
        raise SteppeError("a part of augment is a name, or a name with options", got=repr(one))
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in (options or {}).items()}
    try:
        return kind(**values)
    except TypeError as error:
        known = ", ".join(list(inspect.signature(kind).parameters)) or "none"
        raise SteppeError(
            f"augmentation {name} must be given options it has",
            got=f"{options} ({error})",
            way_out=f"its options: {known}",
        ) from None
