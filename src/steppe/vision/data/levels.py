"""From stored values to the levels 0..255: one rule for all images of a dataset."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steppe.core.errors import SteppeError
from steppe.vision.framing import Framing, ResizeCenterCrop, filter_of
from steppe.vision.streaming.faults import decoding

Blob = bytes | Path | Image.Image
"""An encoded image, the file that holds it, or the image itself."""

BACKGROUNDS = {"white": 255, "black": 0, "keep": None}
"""What lies behind transparent pixels; keep: nothing, they show the colour that is stored."""

_BITS = (8, 10, 12, 14, 16)
_FLOATS = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0), (0.0, 65535.0))
_SAY = "say otherwise with value_range (data.value_range in a recipe)"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How stored images become pixels.

    Args:
        size: height and width to scale and crop to; None keeps images as they are.
        value_range: the values that are black and white; None looks at those that are stored.
        channels: 1 (grey) or 3 (colour) for all images; None is what the first training image is.
        background: behind transparent pixels: white, black or keep.
        resize: length of the shorter side before the middle of ``size`` x ``size`` is cut out, as
            `ResizeCenterCrop` has it; None scales the shorter side to ``size``.
        interpolation: bilinear, bicubic, ...

    Raises:
        SteppeError: a value that means nothing.

    Example:
        >>> Reading(value_range=(0, 4095)).value_range
        (0, 4095)
    """

    size: int | None = None
    value_range: tuple[float, ...] | None = None
    channels: int | None = None
    background: str = "white"
    resize: int | None = None
    interpolation: str = "bilinear"

    @property
    def framing(self) -> Framing | None:
        """The middle of an image at its size; None where images stay as they are."""
        if self.size is None:
            return None
        return ResizeCenterCrop(self.size, self.resize, self.interpolation)

    def __post_init__(self) -> None:
        if self.size is None and self.resize is not None:
            raise SteppeError(
                "resize goes with the size that is cut out of it",
                got=f"resize {self.resize} and no size",
                way_out="size 224 beside resize 256",
            )
        filter_of(self.interpolation)
        _ = self.framing  # which checks the sizes
        if self.background not in BACKGROUNDS:
            raise SteppeError(
                f"background must be {', '.join(BACKGROUNDS)}", got=repr(self.background)
            )
        if self.channels not in (None, 1, 3):
            raise SteppeError(
                "channels must be 1 (grey) or 3 (colour)", got=self.channels, way_out="leave it out"
            )
        given = self.value_range
        if given is not None and not (len(given) == 2 and given[0] < given[1]):
            raise SteppeError(
                "value_range must be two numbers, what is black and what is white",
                got=given,
                way_out="value_range [0, 4095]",
            )


def opened(blob: Blob) -> Any:
    """The image, its header read and its pixels not yet."""
    if isinstance(blob, Image.Image):
        return blob.copy()  # its user may close what was opened
    return Image.open(BytesIO(blob) if isinstance(blob, bytes) else blob)


def is_deep(mode: str) -> bool:
    """Whether an image of that mode has more than 256 levels."""
    return mode == "F" or mode.startswith("I")


class Levels:
    """The range of the values of deep images (16 or 32 bits, or floats), over a whole dataset.

    Which values are black and white is not in a file. It is looked for when the first deep image
    is met, over all images of all splits, so that it depends on no selection. `settle` does that
    before worker processes get copies, each of which would look for it.

    Args:
        reading: with a range, where one is given.
    """

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.notes: list[str] = []
        self._parts: list[Callable[[], Iterator[tuple[Blob, str]]]] = []
        self._ranges: dict[bool, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes get a copy; a lock cannot be copied, and who knows need not look."""
        kept = {key: value for key, value in vars(self).items() if key != "_lock"}
        return kept | ({"_parts": []} if self._ranges else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()

    def add(self, part: Callable[[], Iterator[tuple[Blob, str]]]) -> None:
        """Images to look at: encoded, and what each is called."""
        self._parts.append(part)

    def settle(self, blob: Blob, name: str) -> None:
        """Look for the range now, if this image is deep; only its header is read for that.

        Raises:
            SteppeError: it is no image, or the range cannot be seen.
        """
        with decoding(name), opened(blob) as image:
            deep = is_deep(image.mode)
        if deep and self.reading.value_range is None:
            self._known()

    def of(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Stored values to levels, ``[h, w]`` or ``[h, w, c]``; what lies outside is clipped."""
        floats = values.dtype.kind == "f"
        low, high = self.reading.value_range or self._range(floats)
        if floats:
            levels = (values.astype(np.float64) - low) * (255.0 / (high - low))
            levels = np.round(levels)
        else:  # equal shares of the range for all levels: of 16 bits the upper eight
            levels = np.floor((values.astype(np.float64) - low) * (256.0 / (high - low + 1)))
        return np.clip(levels, 0, 255).astype(np.uint8)

    def _range(self, floats: bool) -> tuple[float, float]:
        return self._known()[floats]

    def _known(self) -> dict[bool, tuple[float, float]]:
        with self._lock:
            if not self._ranges:
                self._look()
            return self._ranges

    def _look(self) -> None:
        ends: dict[bool, list[float]] = {}
        for part in self._parts:
            for blob, name in part():
                with decoding(name), opened(blob) as image:
                    if not is_deep(image.mode):
                        continue
                    values = np.asarray(image)
                least, most = float(values.min()), float(values.max())
                if not np.isfinite([least, most]).all():
                    raise SteppeError(
                        "the values of an image must be finite",
                        got=f"NaN or infinity in {name}",
                        way_out="replace them, or remove that image",
                    )
                both = ends.setdefault(image.mode == "F", [least, most])
                both[:] = [min(both[0], least), max(both[1], most)]
        ranges: dict[bool, tuple[float, float]] = {}
        notes: list[str] = []
        for floats, (least, most) in ends.items():
            chosen = float_range(least, most) if floats else integer_range(least, most)
            kind = "float" if floats else "16- or 32-bit"
            if chosen is None:
                raise SteppeError(
                    "which values are black and white must be given where it cannot be seen",
                    got=f"{kind} images with values in {least:g}..{most:g}",
                    way_out=f"value_range [{least:g}, {most:g}] (data.value_range in a recipe)",
                )
            ranges[floats] = chosen
            if floats or chosen[1] != 65535:
                notes.append(
                    f"{kind} images with values in {least:g}..{most:g} are read as "
                    f"{chosen[0]:g}..{chosen[1]:g}; {_SAY}"
                )
        # all or nothing: who comes next is refused for the same reason
        self._ranges = ranges
        self.notes += notes


def integer_range(least: float, most: float) -> tuple[float, float] | None:
    """0 to the largest number of 8, 10, 12, 14 or 16 bits that covers the values, or None.

    Example:
        >>> integer_range(3, 4090), integer_range(-1, 5)
        ((0.0, 4095.0), None)
    """
    tops = [2.0**bits - 1 for bits in _BITS if most < 2**bits]
    return (0.0, tops[0]) if tops and least >= 0 else None


def float_range(least: float, most: float) -> tuple[float, float] | None:
    """The first of 0..1, 0..255, -1..1 and 0..65535 that covers the values, or None.

    Example:
        >>> float_range(0.0, 0.97), float_range(-0.5, 1.0), float_range(-1000.0, 400.0)
        ((0.0, 1.0), (-1.0, 1.0), None)
    """
    return next(((a, b) for a, b in _FLOATS if a <= least and most <= b), None)
