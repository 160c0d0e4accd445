"""Datasets of objects in images: Pascal VOC folders, COCO files, the hub's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from steppe.core.errors import SteppeError, unknown
from steppe.core.notes import note
from steppe.core.registry import Registry
from steppe.vision.colours import IMAGENET_MEAN, IMAGENET_STD
from steppe.vision.data.labels import images_of
from steppe.vision.data.levels import Reading
from steppe.vision.detection.augment import Augmentations, augmentations
from steppe.vision.detection.data.base import Source, Split
from steppe.vision.detection.data.parts import (
    every_class_is_there,
    more_often,
    no_image_twice,
    none_in_both,
    something_to_find,
)

KEPT_BYTES = 2**30
"""Decoded images stay in memory up to so many bytes."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a reader.

    Args:
        train_split: name of the split to train on; the reader's usual one if None.
        test_split: name of the split to test on.
    """

    train_split: str | None = None
    test_split: str | None = None


class Reader(Protocol):
    """A layout of datasets."""

    def claims(self, path: Path) -> bool:
        """Whether a folder is of this layout."""
        ...

    def read(self, name: str, wanted: Wanted) -> Source:
        """The dataset.

        Args:
            name: what stands behind the layout's name and a colon.
            wanted: its splits.
        """
        ...


READERS: Registry[Any] = Registry("layout of detection data", "steppe.vision.detection.data")
"""Name -> `Reader`."""
OTHER_SPLITS = "name other splits: --set data.train_split=... --set data.test_split=..."
"""A way out of what is wrong with a split."""


@dataclass(frozen=True, eq=False)
class DetectionData:
    """A dataset ready for training; what `load` returns.

    Args:
        name: what it was loaded from.
        train: images to train on.
        validation: images held out of the training images, or None.
        test: the test images.
        classes: names of the kinds of objects, in label order.
        size: height and width that images are scaled to.
        mean: per channel, of images in [0, 1].
        std: per channel.
        augment: what is done to training images.
        notes: what was left out or read in one of several ways, in sentences.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    classes: tuple[str, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augmentations
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Kinds of objects."""
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width of an image as the network takes it."""
        return len(self.mean), self.size, self.size

    def part(self, name: str) -> Split:
        """``train``, ``validation`` or ``test``.

        Raises:
            SteppeError: there is no such part, or none was held out.
        """
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        found = parts.get(name)
        if found is None:
            raise SteppeError(
                "split must be train, validation or test, and loaded",
                got=name,
                way_out="--set data.validation=0.1 holds images out as it is trained",
            )
        return found


def load(
    name: str,
    *,
    size: int = 300,
    train_split: str | None = None,
    test_split: str | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    validation: float | int = 0,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    augment: Any = "ssd",
    value_range: Sequence[float] | None = None,
    skip_invalid: bool = False,
    say: Callable[[str], object] = note,
) -> DetectionData:
    """Load a dataset of objects in images; no pixel is decoded yet.

    Args:
        name: ``voc:FOLDER``, ``coco:FOLDER``, ``hub:OWNER/NAME``, or a folder of a known layout.
        size: height and width that images are scaled to, as SSD does, whatever their shape.
        train_split: name of the split to train on; None for the layout's usual one.
        test_split: name of the split to test on.
        train_size: training images to use, drawn by the seed; None for all.
        test_size: test images to use.
        validation: images to hold out of the training images: their number, or a share.
        seed: of these selections.
        classes: names in label order; None takes those of the source, or else of the training
            objects, in alphabetical order.
        mean: per channel, of images in [0, 1]; None for ImageNet's.
        std: as ``mean``.
        augment: see `steppe.vision.detection.augment.augmentations`.
        value_range: the stored values that are black and white, see `steppe.vision.data.load`.
        skip_invalid: leave out bad objects, with a count, instead of refusing them.
        say: called with each sentence on what was left out or read in one of several ways.

    Returns:
        The dataset; the sentences are its ``notes``.

    Raises:
        SteppeError: no such dataset, or anything in it is wrong.
    """
    from steppe.vision.detection.data.checked import Checker

    parts_of_augment = augmentations(augment)  # what is wrong in it is said before data are read
    source = _resolve(name, Wanted(train_split=train_split, test_split=test_split))
    known = _classes(source, classes)
    checker = Checker(known, skip_invalid)
    train, held_out = _drawn(len(source.train), train_size, validation, seed, "train_size")
    test, _ = _drawn(len(source.test), test_size, 0, seed, "test_size")
    drawn = (source.train, train), (source.train, held_out), (source.test, test)
    parts = [checker.scenes(own[row] for row in rows) for own, rows in drawn]
    every_class_is_there(known, parts[0], name)
    no_image_twice(parts[2].where, "tested on")
    none_in_both([*parts[0].where, *parts[1].where], parts[2].where)
    if held_out:
        no_image_twice([*parts[0].where, *parts[1].where], "trained on or held out")
        something_to_find(parts[1], "validation", name, "--set data.validation=... with more")
    cut = test_size is not None and test_size < len(source.test)
    more = "--set data.test_size=... with more, or " if cut else ""
    something_to_find(parts[2], "test", name, f"{more}another split: --set data.test_split=...")
    colours = _colours(mean, std)
    reading = Reading(
        value_range=None if value_range is None else tuple(value_range),
        channels=len(colours["mean"]),
        background="keep",
    )
    levels, of_levels = checker.depths.levels(reading, (source.train, source.test))
    notes = (*source.notes, *checker.notes(), *more_often(parts[0].where), *of_levels)
    for sentence in notes:
        say(sentence)
    keep = sum(3 * int(part.sizes.prod(1).sum()) for part in parts) <= KEPT_BYTES
    splits = [Split(part, levels, keep) for part in parts]
    return DetectionData(
        name=name,
        train=splits[0],
        validation=splits[1] if held_out else None,
        test=splits[2],
        classes=known,
        size=size,
        augment=parts_of_augment,
        notes=notes,
        **colours,
    )


def _colours(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> dict[str, tuple[float, ...]]:
    own = {
        "mean": IMAGENET_MEAN if mean is None else tuple(mean),
        "std": IMAGENET_STD if std is None else tuple(std),
    }
    count = len(own["mean"])
    if count not in (1, 3) or count != len(own["std"]) or min(own["std"]) <= 0:
        raise SteppeError(
            "mean and std are three numbers each (one for grey images), std above 0",
            got=f"{list(own['mean'])} and {list(own['std'])}",
            way_out="--set data.mean=[0.5,0.5,0.5] --set data.std=[0.5,0.5,0.5]",
        )
    return own


def _resolve(name: str, wanted: Wanted) -> Source:
    layout, colon, rest = name.partition(":")
    if colon and layout in READERS:
        return READERS[layout].read(rest, wanted)  # type: ignore[no-any-return]
    if colon and "/" not in layout:
        raise unknown("layout of detection data", layout, READERS)
    path = Path(name).expanduser()
    own = layout_of(path)
    if own is not None:
        return READERS[own].read(name, wanted)  # type: ignore[no-any-return]
    raise SteppeError(
        "detection data are a folder of a known layout",
        got=f"{name}, {'of none' if path.exists() else 'which does not exist'}",
        way_out=" or ".join(f"--data {one}:PLACE" for one in READERS)
        + "; docs/detection.md says what each holds",
    )


def layout_of(path: Path) -> str | None:
    """The layout of a folder; None where it is of none that can be seen.

    Args:
        path: the folder, or another path.
    """
    if not path.is_dir():
        return None
    return next((own for own in READERS if READERS[own].claims(path)), None)


def another_layout(own: str, path: Path) -> str:
    """How a folder is named that is of another layout than was said; "" where it is not.

    Args:
        own: the layout that was said.
        path: the folder.
    """
    other = layout_of(path)
    return "" if other in (None, own) else f"--data {other}:{path}"


def _classes(source: Source, given: Sequence[str] | None) -> tuple[str, ...]:
    known = tuple(given or source.classes)
    if not known:
        known = tuple(sorted({o.name for one in source.train for o in one.objects if o.name}))
    if not known or len(set(known)) != len(known) or not all(known):
        raise SteppeError(
            "the classes are one or more names, each once",
            got=list(known) if known else "training images without any object",
            way_out="--set data.classes=[cat,dog], or annotations with objects",
        )
    return known


def _drawn(
    total: int, limit: int | None, held: float | int, seed: int, key: str
) -> tuple[list[int], list[int]]:
    """Rows of some pictures, and of others that are held out, both in their order."""
    count = total if limit is None else limit
    out = images_of(held, count)
    kept = count if limit is not None else total - out
    if count < 1 or kept < 1 or out < 0 or kept + out > total:
        raise SteppeError(
            f"{key} and validation must leave at least one of the {total} images, and take no more",
            got=f"{limit} and {held}",
            way_out=f"--set data.{key}=... and --set data.validation=... of {total} together",
        )
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).tolist()
    return sorted(order[out : out + kept]), sorted(order[:out])


def without_kept(split: Split) -> Split:
    """The same images, of which none stays in memory: for worker processes."""
    return split.of(split.scenes)
