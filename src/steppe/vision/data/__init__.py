"""Image datasets by name: built in, a local folder, or the hub; decoded once, or streamed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from steppe.core.errors import OtherTask, SteppeError, unknown
from steppe.core.hub_names import absent, is_hub_id
from steppe.core.notes import note
from steppe.core.registry import Registry
from steppe.core.user_code import is_module
from steppe.vision.augment import Given, augmentation
from steppe.vision.colours import IMAGENET_MEAN, IMAGENET_STD
from steppe.vision.data.base import ImageData, ImageSplit, Rows, Source, Split
from steppe.vision.data.cache import decoded
from steppe.vision.data.labels import labels_of, select
from steppe.vision.data.levels import Reading
from steppe.vision.data.on_disk import streamed, streams

DATASETS: Registry[Callable[[int | None], Source]] = Registry("dataset", "steppe.vision.data")
"""Name -> ``source(size)``."""

__all__ = ["DATASETS", "ImageData", "Split", "load"]


def load(
    name: str,
    *,
    train_size: int | None = None,
    test_size: int | None = None,
    validation: float | int = 0,
    seed: int = 0,
    cache: Path | str | None = None,
    size: int | None = None,
    num_classes: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    augment: Given = "auto",
    value_range: Sequence[float] | None = None,
    channels: int | None = None,
    background: str = "white",
    resize: int | None = None,
    interpolation: str = "bilinear",
    stream: bool | Literal["auto"] = "auto",
    workers: int | None = None,
    say: Callable[[str], object] = note,
) -> ImageData:
    """Load a dataset of images.

    ``name`` is, in this order: a registered dataset (``digits``), a local path (a folder, file or
    pattern of parquet files, a folder of tar shards, or one of image folders), a URL of parquet
    files (``hf://datasets/org/name``), a function ``package.module:function`` that gives two
    datasets of torch, or a hub id ``org/name``. Only URLs and hub ids use the network. Selections
    are stratified by class and seeded.

    Args:
        name: what to load.
        train_size: training images to use; None for all. Only these are decoded.
        test_size: test images to use; None for all.
        validation: images to hold out of the training file: their number, or a float share of
            ``train_size`` (of all without it). They are never among the training images.
        seed: of the selections.
        cache: folder for decoded images, and for what lies where in tar shards; None decodes and
            looks anew each time.
        size: height and width in pixels to scale and crop to; None keeps the images as they are.
        num_classes: None takes what the source says, else the largest training label + 1.
        mean: per channel, of images in [0, 1]; None: CIFAR's usual constants for 3 x 32 x 32
            images, ImageNet's for streamed ones, otherwise computed from the training images.
        std: as ``mean``.
        augment: see :func:`steppe.vision.augment.augmentation`.
        value_range: the stored values that are black and white, e.g. (0, 4095); None: 0..255 for
            images of 8 bits, and for deeper ones the usual range that covers all of the dataset.
        channels: 1 (grey) or 3 (colour); None is what the first training image has.
        background: behind transparent pixels: white, black or keep (they show what is stored).
        resize: length of the shorter side before the middle of ``size`` x ``size`` is cut out; None
            scales the shorter side to ``size``.
        interpolation: bilinear, bicubic, nearest, lanczos or box.
        stream: whether images stay on disk and are decoded batch by batch; auto: where they would
            take more than 4 GiB in memory, or an augmentation needs more than their middle.
        workers: processes that decode, for each process that trains; None: its share of the cores,
            at most 8. Changes no image.
        say: called with each sentence on what was left out or read in one of several ways.

    Returns:
        The dataset, images as uint8 [n, c, h, w] on the CPU, or streamed; the sentences are its
        ``notes``.

    Raises:
        SteppeError: unknown name, missing column, bad label, undecodable image, impossible size.

    Example:
        >>> data = load("digits", train_size=100, validation=20)
        >>> len(data.train), len(data.validation), len(data.test), data.shape
        (100, 20, 500, (1, 8, 8))
    """
    reading = Reading(
        size=size,
        value_range=None if value_range is None else tuple(value_range),
        channels=channels,
        background=background,
        resize=resize,
        interpolation=interpolation,
    )
    folder = None if cache is None else Path(cache)
    source = resolve(str(name), reading, folder)
    labels = labels_of(source, num_classes)
    train_rows, held_out_rows = select(labels.train, train_size, validation, seed)
    test_rows, _ = select(labels.test, test_size, 0, seed, what="test")
    count = sum(map(len, (train_rows, held_out_rows, test_rows)))
    how = streams(source, reading, train_rows, count, stream, augment)
    split = partial(_split, how.streamed, reading, folder)
    train = split(source.train, labels.train, train_rows)
    held_out = split(source.train, labels.train, held_out_rows) if held_out_rows else None
    test = split(source.test, labels.test, test_rows)
    own_mean, own_std, said = _statistics(train)
    said = said if mean is None or std is None else []
    of_images = [*source.train.notes, *source.test.notes, *how.notes, *said]
    notes = dict.fromkeys([*source.notes, *labels.notes, *of_images])
    for sentence in notes:
        say(sentence)
    return ImageData(
        name=str(name),
        train=train,
        validation=held_out,
        test=test,
        num_classes=labels.num_classes,
        mean=_per_channel("mean", mean, own_mean),
        std=_per_channel("std", std, own_std),
        classes=labels.classes,
        augment=augmentation(augment, _one_shape(train, test), how.streamed),
        notes=tuple(notes),
        workers=workers,
    )


def _split(
    on_disk: bool, reading: Reading, folder: Path | None, rows: Rows, of: Tensor, chosen: list[int]
) -> ImageSplit:
    """Some rows with their labels, streamed or decoded."""
    if on_disk:
        return streamed(rows, of, chosen, reading)
    return Split(decoded(rows, chosen, folder), of[chosen])


def _one_shape(train: ImageSplit, test: ImageSplit) -> tuple[int, ...]:
    shape, other = train.shape, test.shape
    if shape != other:
        raise SteppeError(
            "training and test images must have one shape",
            got=f"{shape} and {other}",
            way_out="give size=32 or another side to scale and crop to"
            if shape[0] == other[0]
            else "channels=3 (data.channels in a recipe) reads all in colour",
        )
    return shape


def resolve(name: str, reading: Reading, cache: Path | None = None) -> Source:
    """Find out what ``name`` is; no image is decoded yet."""
    # Here, not above: these modules must not be needed to define DATASETS.
    from steppe.vision.data.hub import hub
    from steppe.vision.data.imagefolder import imagefolder
    from steppe.vision.data.parquet import elsewhere, find, parquet
    from steppe.vision.data.places import is_url
    from steppe.vision.data.tar_shards import find_shards, tar_shards
    from steppe.vision.data.user import from_user

    if name in DATASETS:
        if reading != Reading(size=reading.size):
            raise SteppeError(
                "value_range, channels, background, resize, interpolation are for images in files",
                got=f"dataset {name}, which has its own",
                way_out="leave them out",
            )
        return DATASETS[name](reading.size)
    if is_url(name):
        return elsewhere(name, reading)
    path = Path(name).expanduser()
    _check_boxes(name, path)
    files = find(str(path))
    if files:
        return parquet(files, reading)
    if path.is_dir():
        shards = find_shards(path) if not _has_class_folders(path) else {}
        return tar_shards(path, shards, reading, cache) if shards else imagefolder(path, reading)
    if re.fullmatch(r"[\w.]+:[\w.]+", name):
        return from_user(name, reading)
    if is_hub_id(name):
        return hub(name, reading)
    if "/" in name or name.startswith(("~", ".")) or path.exists():
        raise absent(
            name,
            "a dataset's path must be a folder or parquet files that exist",
            "a folder with train.parquet and test.parquet, train*.tar and test*.tar, or "
            "train/<class>/ and test/<class>/ with images",
        )
    known = unknown("dataset", name, DATASETS)
    raise SteppeError(
        "data is a dataset's name, a folder or file that exists, package.module:function, or a hub "
        "id org/name",
        got=f"{name}, and no such path is there",
        way_out=known.way_out or "",
    )


def _check_boxes(name: str, path: Path) -> None:
    """Refuse a dataset of objects in images, whose name or folder shows that it is one.

    Raises:
        SteppeError: it is one.
    """
    from steppe.vision.detection.data import READERS, layout_of

    layout, colon, _ = name.partition(":")
    if colon and layout in READERS:
        if is_module(layout):  # a function of the user's own
            return
    elif _has_class_folders(path) or layout_of(path) is None:
        return
    raise OtherTask(
        "training of task image takes images with labels",
        got=f"{name}, a dataset of objects with boxes",
        task="detection",
    )


def _has_class_folders(folder: Path) -> bool:
    train = folder / "train"
    return train.is_dir() and any(entry.is_dir() for entry in train.iterdir())


def _statistics(train: ImageSplit) -> tuple[tuple[float, ...], tuple[float, ...], list[str]]:
    """Mean and standard deviation per channel in units of [0, 1], and what is to be said of them.

    Of images in memory they are measured; streamed ones get the constants of ImageNet, of which
    grey ones have the mean.
    """
    if train.shape == (3, 32, 32):  # the ResNets commonly shared for CIFAR have them, too
        return IMAGENET_MEAN, IMAGENET_STD, []
    if not isinstance(train, Split):
        mean: tuple[float, ...] = IMAGENET_MEAN
        std: tuple[float, ...] = IMAGENET_STD
        if train.shape[0] == 1:
            mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
        note = (
            "streamed images are normalised by ImageNet's usual mean and std (data.mean, data.std)"
        )
        return mean, std, [note]
    return (*_measured(train.images), [])


def _measured(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of uint8 images."""
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(1):
        # From the histogram: exact, and no float copy of all images.
        share = channel.flatten().bincount(minlength=256).double() / channel.numel()
        m = (share * values).sum()
        mean.append(float(m))
        # A channel that is constant would divide by zero; one grey level is then the unit.
        std.append(max(float((share * (values - m) ** 2).sum().sqrt()), 1 / 255))
    return tuple(mean), tuple(std)


def _per_channel(
    what: str, given: Sequence[float] | None, measured: tuple[float, ...]
) -> tuple[float, ...]:
    values = measured if given is None else tuple(map(float, given))
    if len(values) != len(measured) or (what == "std" and min(values) <= 0):
        raise SteppeError(
            f"{what} must be {len(measured)} numbers, one per channel"
            + (", positive" if what == "std" else ""),
            got=given,
        )
    return values
