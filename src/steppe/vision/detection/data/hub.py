"""Datasets of the Hugging Face hub, or saved as theirs, with a column of objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require
from steppe.vision.detection.data import READERS, Wanted, another_layout
from steppe.vision.detection.data.base import (
    Object,
    Picture,
    Pictures,
    Source,
    object_of_sides,
    sides,
)
from steppe.vision.detection.targets import CROWD, DIFFICULT

TRAIN, TEST = ("train",), ("test", "validation")
IMAGE, OBJECTS = ("image", "img"), ("objects", "annotations")
LABELS, BOXES = ("category", "categories", "label", "labels"), ("bbox", "boxes", "bboxes")
FLAGS = {"difficult": DIFFICULT, "is_difficult": DIFFICULT, "iscrowd": CROWD, "is_crowd": CROWD}


@READERS.register("hub")
class Hub:
    """``OWNER/NAME``, or a folder of parquet files: images, and objects with bbox and category.

    Boxes are left, top, width, height in pixels, as in COCO. Objects may be flagged ``difficult``
    (or ``is_difficult``) or ``iscrowd`` (or ``is_crowd``).
    """

    @staticmethod
    def claims(path: Path) -> bool:
        """A folder must be named as ``hub:FOLDER``."""
        return False

    @staticmethod
    def read(name: str, wanted: Wanted) -> Source:
        """Both splits.

        Args:
            name: id or folder.
            wanted: names of the splits; train, and test or validation, where none are given.

        Raises:
            SteppeError: it cannot be loaded, or has no such columns.
        """
        folder = Path(name).expanduser()
        other = another_layout("hub", folder)
        if other and next(folder.rglob("*.parquet"), None) is None:
            raise SteppeError(
                "hub:FOLDER holds parquet files", got=f"{folder}, without one", way_out=other
            )
        library = require("datasets", install="'steppe[hub]'", purpose="reading a hub dataset")
        try:
            whole = library.load_dataset(name)
        except Exception as error:  # the library raises many kinds: network, scripts, files
            text = " ".join(str(error).split())[:300]
            raise SteppeError(
                "a dataset must be one that the datasets library can load",
                got=f"{name} ({type(error).__name__}: {text})",
                way_out="check the id and the network, or give a local folder of parquet files",
            ) from None
        train, train_name = _named(whole, name, wanted.train_split, TRAIN, "train_split")
        test, test_name = _named(whole, name, wanted.test_split, TEST, "test_split")
        pictures = [
            _Pictures(library, s, f"{n} of {name}")
            for s, n in ((train, train_name), (test, test_name))
        ]
        classes = _classes(train)
        used = pictures[0].used()
        known = tuple(own for own in classes if own in used)
        notes = (f"trained on {train_name}, tested on {test_name}",)
        return Source(pictures[0], pictures[1], known, notes)


def _named(
    whole: Any, name: str, asked: str | None, usual: tuple[str, ...], key: str
) -> tuple[Any, str]:
    for split in usual if asked is None else (asked,):
        if split in whole:
            return whole[split], split
    raise SteppeError(
        "a split must be one of the dataset's",
        got=f"none of {', '.join(usual if asked is None else (asked,))} in {name}",
        way_out=f"--set data.{key}=NAME, of {', '.join(whole)}",
    )


def _column(there: Sequence[str], wanted: Sequence[str], where: str) -> str:
    for name in wanted:
        if name in there:
            return name
    raise SteppeError(
        f"a dataset of objects has {' or '.join(wanted)}",
        got=f"{', '.join(there)} in {where}",
        way_out=f"rename the one that is it to {wanted[0]}",
    )


def _classes(split: Any) -> tuple[str, ...]:
    """The names of the categories where they have some; "" where they are texts or numbers."""
    objects = split.features[_column(split.column_names, OBJECTS, "the dataset")]
    inner = getattr(objects, "feature", objects)
    kind = inner[_column(list(inner), LABELS, "its objects")]
    kind = getattr(kind, "feature", kind)
    return tuple(getattr(kind, "names", None) or ())


@dataclass(frozen=True, eq=False)
class Cell:
    """An encoded image in a table, which the datasets library maps into memory as it is read.

    Args:
        images: the column of images alone, not decoded.
        row: in it.
        where: words for an error message.
    """

    images: Any
    row: int
    where: str

    def read_bytes(self) -> bytes:
        """The encoded image.

        Raises:
            SteppeError: there is none.
        """
        (cell,) = self.images[self.row].values()
        told = cell if isinstance(cell, dict) else {}
        if told.get("bytes") is not None:
            return bytes(told["bytes"])
        if not told.get("path"):
            raise SteppeError(
                "an image column holds encoded images",
                got=f"none in {self.where}",
                way_out="store one, or take the row out",
            )
        return Path(told["path"]).read_bytes()


class _Pictures(Pictures):
    """A split; its images with their objects are read from the table as they are asked for.

    Args:
        library: datasets.
        split: of its.
        where: words for error messages.
    """

    def __init__(self, library: Any, split: Any, where: str) -> None:
        image = _column(split.column_names, IMAGE, where)
        self.column = _column(split.column_names, OBJECTS, where)
        self.images = split.select_columns([image]).cast_column(image, library.Image(decode=False))
        self.rest = split.remove_columns([image])
        self.names, self.where = _classes(split), where

    def used(self) -> set[str]:
        """Names of the objects' categories."""
        return {
            o.name for row, one in enumerate(self.rest) for o in self._picture(row, one).objects
        }

    def __len__(self) -> int:
        return len(self.rest)

    def picture(self, row: int) -> Picture:
        return self._picture(row, self.rest[row])

    def _picture(self, row: int, entry: Any) -> Picture:
        place = f"row {row} of {self.where}"
        found = entry[self.column] or {}
        if isinstance(found, list):  # one mapping for each object
            found = {key: [one[key] for one in found] for key in (found[0] if found else {})}
        size = (entry["width"], entry["height"]) if entry.get("width") else None
        objects = tuple(_objects(found, self.names, place))
        return Picture(Cell(self.images, row, place), place, size, objects)


def _objects(found: Any, names: tuple[str, ...], place: str) -> list[Object]:
    if not found:
        return []
    labels = found[_column(list(found), LABELS, place)]
    boxes = found[_column(list(found), BOXES, place)]
    if len(labels) != len(boxes):
        raise SteppeError(
            "every object has a box and a category",
            got=f"{len(boxes)} boxes and {len(labels)} categories in {place}",
            way_out="store as many of both",
        )
    flags = _flags(found, len(boxes), place)
    objects = []
    for number, (label, box, flag) in enumerate(zip(labels, boxes, flags, strict=True)):
        where = f"object {number + 1} of {place}"
        if isinstance(label, int) and names and not 0 <= label < len(names):
            raise SteppeError(
                "a category is one of the dataset's",
                got=f"{label} in {where}",
                way_out=f"a number from 0 to {len(names) - 1}: {', '.join(names[:10])}",
            )
        name = names[label] if isinstance(label, int) and names else str(label)
        objects.append(object_of_sides(name, sides(box, where), flag, where))
    return objects


def _flags(found: Any, count: int, place: str) -> list[int]:
    """Why objects count neither as found nor as missed; a crowd is one even where it is hard."""
    flags = [0] * count
    for name, flag in FLAGS.items():
        given = found.get(name)
        if given is None:
            continue
        if len(given) != count:
            raise SteppeError(
                "every object is flagged, or none",
                got=f"{count} boxes and {len(given)} of {name} in {place}",
                way_out=f"a {name} for each box, or none",
            )
        flags = [max(old, flag if new else 0) for old, new in zip(flags, given, strict=True)]
    return flags
