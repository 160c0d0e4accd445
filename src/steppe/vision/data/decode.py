"""Encoded images to one uint8 tensor, with PIL."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.text import counted
from steppe.vision.data.levels import BACKGROUNDS, Blob, Levels, Reading, is_deep, opened
from steppe.vision.framing import Framing
from steppe.vision.streaming.faults import decoding

# Below this, Python's part of the work outweighs PIL's and threads only wait for each other
# (measured: 32x32 JPEGs, 2 cores, 0.87 s for 10,000 with one thread, 1.17 s with two).
THREADED_BYTES = 16_384

TRANSPARENT, FRAMES, DEEP_COLOUR = "transparent", "frames", "deep colour"


def decode(
    blobs: Sequence[Blob],
    *,
    describe: Callable[[int], str],
    grey: bool,
    size: int | None = None,
    levels: Levels | None = None,
    notes: list[str] | None = None,
) -> Tensor:
    """Decode images into one tensor.

    Args:
        blobs: the encoded images.
        describe: position in ``blobs`` -> words for an error message.
        grey: one channel instead of three; a coloured image is then an error, not a silent loss.
        size: height and width; the image is scaled to cover size x size and cropped to the middle.
            None: all images must already be of one size.
        levels: of the dataset that they belong to, with its size; None: they are all of it.
        notes: gets what was read in one of several ways, in sentences.

    Returns:
        [n, c, h, w], uint8.

    Raises:
        SteppeError: an image that cannot be decoded, has colour among grey ones, or another size.

    Example:
        >>> from io import BytesIO
        >>> file = BytesIO()
        >>> Image.new("RGB", (2, 1), (255, 0, 0)).save(file, "png")
        >>> decode([file.getvalue()], describe=str, grey=False)[0, :, 0, 0]
        tensor([255,   0,   0], dtype=torch.uint8)
    """
    if levels is None:
        levels = Levels(Reading(size=size))
        levels.add(lambda: ((blob, describe(i)) for i, blob in enumerate(blobs)))
    seen: Counter[str] = Counter()
    first, _ = _decode_one(blobs[0], describe(0), grey, levels)
    out = np.empty((len(blobs), *first.shape), dtype=np.uint8)

    def fill(i: int) -> list[str]:
        image, properties = _decode_one(blobs[i], describe(i), grey, levels)
        if image.shape != first.shape:
            raise SteppeError(
                "all images must have one size",
                got=f"{image.shape[1]} x {image.shape[0]} in {describe(i)}, "
                f"{first.shape[1]} x {first.shape[0]} in {describe(0)}",
                way_out="give size=32 or another side to scale and crop to",
            )
        out[i] = image
        return properties

    first_blob, size_of_first = blobs[0], THREADED_BYTES
    if isinstance(first_blob, bytes):
        size_of_first = len(first_blob)
    elif isinstance(first_blob, Path):
        size_of_first = first_blob.stat().st_size
    if size_of_first < THREADED_BYTES:
        for i in range(len(blobs)):
            seen.update(fill(i))
    else:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for properties in pool.map(fill, range(len(blobs))):
                seen.update(properties)
    ambiguous = notes_of(seen, levels.reading.background, int(out.max(initial=0)))
    if notes is not None:
        notes += ambiguous
    # One pass to the order a network wants; views would make every later batch pay for it.
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def is_grey(blob: Blob, name: str) -> bool:
    """Whether the image is stored without colour (only its header is read).

    Args:
        blob: the image.
        name: of it, for an error message.
    """
    with decoding(name), opened(blob) as image:
        return _without_colour(image.mode)


def size_of(blob: Blob, name: str) -> tuple[int, int]:
    """Width and height of an image as it is seen (only its header is read).

    Args:
        blob: the image.
        name: of it, for an error message.
    """
    with decoding(name), opened(blob) as image:
        width, height = image.size
        return (height, width) if _turned(image) else (width, height)


def _without_colour(mode: str) -> bool:
    return mode in {"1", "L", "LA", "La"} or is_deep(mode)


def _decode_one(
    blob: Blob, name: str, grey: bool, levels: Levels
) -> tuple[NDArray[np.uint8], list[str]]:
    """The pixels [h, w, c], and what is worth saying of the image."""
    image, properties = picture(blob, name, grey, levels, levels.reading.framing)
    pixels = np.asarray(image, dtype=np.uint8)
    return (pixels if pixels.ndim == 3 else pixels[:, :, None]), properties


def picture(
    blob: Blob, name: str, grey: bool, levels: Levels, framing: Framing | None
) -> tuple[Image.Image, list[str]]:
    """One image upright, without transparency, of mode L or RGB, and what is to be said of it.

    Args:
        blob: the image.
        name: of it, for an error message.
        grey: one channel instead of three.
        levels: of its dataset.
        framing: what is kept of it; None: all.

    Raises:
        SteppeError: it cannot be decoded, or has colour where all are grey.
    """
    shrunk = 1.0
    with decoding(name), opened(blob) as image:
        properties = properties_of(image)
        frame = None
        if framing is not None:
            width, height = image.size
            turned = _turned(image)
            frame = framing(height, width) if turned else framing(width, height)
            if frame.draft:
                least = frame.least(height, width) if turned else frame.least(width, height)
                shrunk = _draft(image, least[::-1] if turned else least)
        if "exif" in image.info:  # without it photographs may be turned by 90 degrees
            image = ImageOps.exif_transpose(image)
        coloured, deep = not _without_colour(image.mode), is_deep(image.mode)
        if deep:  # PIL would clip at 255
            image = Image.fromarray(levels.of(np.asarray(image)))
        image, transparent = _on_background(image, levels.reading.background)
        properties += [TRANSPARENT] if transparent else []
        image = image.convert("L" if grey else "RGB")
        if levels.reading.value_range is not None and not deep:
            image = Image.fromarray(levels.of(np.asarray(image)))
        if frame is not None:
            image = frame.of(image, shrunk)
    if grey and coloured and levels.reading.channels is None:
        raise SteppeError(
            "images must all be grey where the first one is",
            got=f"a coloured image in {name}",
            way_out="channels=3 (data.channels in a recipe) reads all in colour, 1 all in grey",
        )
    return image, properties


_ORIENTATION = 0x0112
_ON_ITS_SIDE = (5, 6, 7, 8)
"""By these numbers EXIF says that a photograph lies on its side."""


def _turned(image: Any) -> bool:
    """Whether width and height change places when the image is put upright."""
    return "exif" in image.info and image.getexif().get(_ORIENTATION) in _ON_ITS_SIDE


def _draft(image: Any, least: tuple[int, int]) -> float:
    """Let libjpeg decode at a fraction that still has so many pixels; the fraction."""
    whole = image.size[0]
    done = image.draft(None, least) if min(least) > 0 and hasattr(image, "draft") else None
    return float(done[1][2]) / whole if done is not None else 1.0


def properties_of(image: Any) -> list[str]:
    """What PIL does not tell by itself: more frames than one, more bits than it keeps.

    Args:
        image: of which the header was read.

    Returns:
        `FRAMES`, `DEEP_COLOUR`, or neither.
    """
    properties = [FRAMES] if getattr(image, "n_frames", 1) > 1 else []
    stored = [str(tile[3]) for tile in getattr(image, "tile", ())]  # e.g. RGB;16B
    if len(image.getbands()) > 1 and any(";16" in raw for raw in stored):
        properties.append(DEEP_COLOUR)
    return properties


def _on_background(image: Image.Image, background: str) -> tuple[Image.Image, bool]:
    """The image with what is transparent laid over a colour, and whether anything is."""
    if not {"A", "a"} & set(image.getbands()) and "transparency" not in image.info:
        return image, False
    whole = image.convert("RGBA")
    least = whole.getchannel("A").getextrema()[0]
    level = BACKGROUNDS[background]
    if least == 255 or level is None:
        return image, least != 255
    behind = Image.new("RGBA", whole.size, (level, level, level, 255))
    return Image.alpha_composite(behind, whole), True


def _images(number: int) -> str:
    return f"{counted(number, 'image')} {'has' if number == 1 else 'have'}"


def notes_of(seen: Counter[str], background: str, most: int) -> list[str]:
    """What was read in one of several ways, in sentences with counts.

    Args:
        seen: how many images have which property.
        background: behind transparent pixels.
        most: the highest level of any image.

    Raises:
        SteppeError: images of 16 bits whose upper ones are nearly all 0.
    """
    notes = []
    if seen[TRANSPARENT]:
        how = (
            "they show the stored colour"
            if BACKGROUNDS[background] is None
            else f"they are laid over {background}"
        )
        notes.append(
            f"{_images(seen[TRANSPARENT])} transparent pixels: {how}; say otherwise with "
            f"background (data.background in a recipe): {', '.join(BACKGROUNDS)}"
        )
    if seen[FRAMES]:
        notes.append(f"{_images(seen[FRAMES])} more than one frame: the first is taken")
    if seen[DEEP_COLOUR]:
        if most < 64:
            raise SteppeError(
                "colour images of 16 bits must use the upper ones",
                got=f"{seen[DEEP_COLOUR]} images whose upper 8 bits are {most} at most",
                consequence="PIL reads the upper 8 bits alone, so nearly all would be black",
                way_out="store them with 8 bits for a channel",
            )
        notes.append(f"{seen[DEEP_COLOUR]} colour images of 16 bits: the upper 8 are taken")
    return notes
