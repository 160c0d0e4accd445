"""What is done to training images: one file for each augmentation, each a value."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from steppe.core.errors import SteppeError, unknown
from steppe.core.registry import Registry
from steppe.vision.augment.kinds import Augmentation as Augmentation
from steppe.vision.augment.pipeline import Pipeline as Pipeline

AUGMENTATIONS: Registry[Any] = Registry("augmentation", "steppe.vision.augment")
"""Name -> the class whose fields are its options."""

LARGE = 96
"""From so many pixels a side on, ``auto`` crops streamed images as ImageNet's are."""

Given = str | Sequence[Any] | Augmentation | Pipeline | None
"""What an augmentation may be given as."""


def augmentation(
    what: Given, shape: tuple[int, ...], streamed: bool = False
) -> Augmentation | Pipeline | None:
    """The augmentation a name, or a list of steps, means for images of this shape.

    ``auto``: crop with padding of an eighth of the height, and flip colour images (CIFAR: pad 4
    and flip; the 8 x 8 digits: pad 1, no flip); for streamed images of 96 pixels or more a side
    ``imagenet``. ``crop``, ``crop-flip`` say so outright, ``imagenet`` is a random resized crop and
    flip, ``none`` leaves images as they are.

    Args:
        what: a name, a list of steps (names of `AUGMENTATIONS`, ``{name: {option: value}}``, or
            such values), an augmentation of the user's own, or None.
        shape: channels, height, width.
        streamed: whether images are read from disk batch by batch.

    Returns:
        The augmentation, or None for none.

    Raises:
        SteppeError: an unknown name or option, or an object that is no augmentation.

    Example:
        >>> augmentation("auto", (3, 32, 32))
        CropFlip(pad=4, flip=True, normalised=False)
        >>> augmentation(["flip", {"random_erasing": {"p": 0.5}}], (3, 224, 224)).images[0]
        Flip(p=0.5)
    """
    if what is None or isinstance(what, Pipeline):
        return what
    if isinstance(what, str):
        return _named(what, shape, streamed)
    if isinstance(what, Augmentation):
        return what
    if isinstance(what, Sequence):
        return Pipeline.of([_step(step) for step in what])
    return Pipeline.of([_step(what)])


def _named(what: str, shape: tuple[int, ...], streamed: bool) -> Augmentation | Pipeline | None:
    c, h = shape[0], shape[1]
    pad = max(1, h // 8)
    large = streamed and min(shape[1:]) >= LARGE
    known = {
        "auto": _IMAGENET if large else ({"crop_flip": {"pad": pad, "flip": c == 3}},),
        "crop": ({"crop_flip": {"pad": pad, "flip": False}},),
        "crop-flip": ({"crop_flip": {"pad": pad, "flip": True}},),
        "imagenet": _IMAGENET,
        "none": (),
    }
    if what not in known:
        raise unknown("augmentation", what, [*known, *AUGMENTATIONS]) from None
    made = Pipeline.of([_step(step) for step in known[what]])
    return made if made.of_single_images else made.batch


_IMAGENET: tuple[Any, ...] = ("random_resized_crop", "flip")


def _step(given: Any) -> Any:
    """A step from its name, ``{name: options}``, or itself."""
    if isinstance(given, str):
        return AUGMENTATIONS[given]()
    if isinstance(given, Mapping):
        return _with_options(given)
    if type(given).__module__.partition(".")[0] == "torchvision":
        return AUGMENTATIONS["transform"](given)
    return given


def _with_options(given: Mapping[Any, Any]) -> Any:
    if len(given) != 1:
        raise SteppeError(
            "a step of an augmentation is a name, or one name with its options",
            got=dict(given),
            way_out="augment: [{random_resized_crop: {scale: [0.08, 1]}}, flip]",
        )
    (name, options), = given.items()  # fmt: skip
    kind = AUGMENTATIONS[str(name)]
    fields = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(options, Mapping | None):
        options = {fields[0]: options}  # {transform: package.module:function}
    for key in options or {}:
        if key not in fields:
            raise unknown(f"option of augmentation {name}", key, fields)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in (options or {}).items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise SteppeError(
            f"augmentation {name} must have its options right", got=f"{dict(values)} ({error})"
        ) from None


def check_number(what: str, value: Any, low: float, high: float) -> None:
    """Whether an option is a number in [low, high].

    Raises:
        SteppeError: it is not.

    Example:
        >>> check_number("p", 0.5, 0, 1)
    """
    if not (_is_number(value) and low <= value <= high):
        raise SteppeError(f"{what} must be a number in [{low:g}, {high:g}]", got=repr(value))


def check_range(what: str, value: Any, low: float, high: float) -> None:
    """Whether an option is two numbers in order, both in [low, high].

    Raises:
        SteppeError: they are not.

    Example:
        >>> check_range("scale", (0.08, 1.0), 0, 1)
    """
    pair = isinstance(value, Sequence) and len(value) == 2 and all(map(_is_number, value))
    if not (pair and low <= value[0] <= value[1] <= high):
        raise SteppeError(
            f"{what} must be two numbers in order, in [{low:g}, {high:g}]", got=repr(value)
        )


def check_numbers(what: str, value: Any, low: float, high: float) -> None:
    """Whether an option is one number or more, all in [low, high].

    Raises:
        SteppeError: it is not.

    Example:
        >>> check_numbers("overlaps", (0.1, 0.9), 0, 1)
    """
    several = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    if not (several and all(_is_number(own) and low <= own <= high for own in value)):
        raise SteppeError(
            f"{what} must be a list of numbers in [{low:g}, {high:g}]", got=repr(value)
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
