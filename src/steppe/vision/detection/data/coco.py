"""COCO's layout: one JSON of all images and objects for each split."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steppe.core.errors import SteppeError
from steppe.core.text import counted
from steppe.vision.detection.data import OTHER_SPLITS, READERS, Wanted, another_layout
from steppe.vision.detection.data.base import Object, Picture, Pictures, Source, object_of_sides
from steppe.vision.detection.data.base import sides as sides_of
from steppe.vision.detection.targets import CROWD

TRAIN, TEST = ("train2017", "train"), ("val2017", "test", "val", "valid")
FAULTS = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
"""What reading an entry of a JSON that is made otherwise raises."""


@READERS.register("coco")
class COCO:
    """A folder with ``annotations/instances_SPLIT.json``, or ``SPLIT/_annotations.coco.json``.

    Images lie in ``SPLIT``, ``images/SPLIT``, ``images``, or beside the JSON. Objects that stand
    for a crowd are not learned, and count neither as found nor as missed.
    """

    @staticmethod
    def claims(path: Path) -> bool:
        """Where there is one of these files."""
        return any(path.glob("annotations/instances_*.json")) or any(
            path.glob("*/_annotations.coco.json")
        )

    @staticmethod
    def read(name: str, wanted: Wanted) -> Source:
        """Both splits.

        Args:
            name: the folder.
            wanted: names of the splits; train2017 or train, and val2017, test, val or valid, where
                none are given.

        Raises:
            SteppeError: a file is not there, or is not of this layout.
        """
        root = Path(name).expanduser()
        if not root.is_dir():
            raise SteppeError(
                "a COCO dataset is a folder",
                got=f"{root}, which is {'a file' if root.exists() else 'not there'}",
                way_out="--data coco:FOLDER, the folder that holds annotations or the splits",
            )
        train = _split(root, wanted.train_split, TRAIN, "train_split")
        test = _split(root, wanted.test_split, TEST, "test_split")
        names = dict(train.names)
        other = {n: own for n, own in test.names.items() if names.get(n, own) != own}
        if other:
            raise SteppeError(
                "the splits of a dataset have the same categories",
                got=f"{train.file} and {test.file}, which differ in {', '.join(other.values())}",
                consequence="one number would stand for two classes",
                way_out="number the categories of both alike",
            )
        used = train.used()
        classes = tuple(own for _, own in sorted(names.items()) if own in used)
        unused = [own for own in names.values() if own not in used]
        notes = [f"trained on {train.name}, tested on {test.name}"]
        if unused:
            notes.append(f"categories without a training object: {', '.join(unused[:5])}")
        for split in (train, test):
            if lost := split.without_image:
                objects = counted(lost, "annotation")
                notes.append(f"{objects} of images that {split.file} does not list left out")
        return Source(train, test, classes, tuple(notes))


class _Split(Pictures):
    """One JSON; its images with their objects are made of columns as they are asked for.

    Args:
        root: the folder.
        name: of the split.
        file: the JSON.
    """

    def __init__(self, root: Path, name: str, file: Path) -> None:
        self.name, self.file = name, file
        parts = _parts(file)
        self.names: dict[int, str] = {}
        self.files: list[str] = []
        self.sizes: list[tuple[int, int] | None] = []
        images: list[int] = []
        each = parts["categories"]
        for place, entry in enumerate(each):
            with _named("category", "id and name", entry, place, file):
                self.names[int(entry["id"])] = str(entry["name"])
        _once("category", (int(entry["id"]) for entry in each), file)
        for place, entry in enumerate(parts["images"]):
            with _named("image", "id and file_name", entry, place, file):
                images.append(int(entry["id"]))
                self.files.append(str(entry["file_name"]))
                self.sizes.append(_size(entry))
        _once("image", images, file)
        _once("image", self.files, file, "a", "file")
        self.folder = self._folder(root)
        self._read(parts["annotations"], np.array(images))

    def _read(self, annotations: Sequence[Any], images: NDArray[np.int64]) -> None:
        """Columns of the objects, those of an image in a row."""
        count = len(annotations)
        owners, categories = np.zeros(count, np.int64), np.zeros(count, np.int64)
        boxes, crowds = np.zeros((count, 4)), np.zeros(count, bool)
        ids: list[Any] = []
        what = "image_id, category_id and bbox"
        place, entry = 0, None
        try:  # one around all: there may be a million
            for place, entry in enumerate(annotations):
                ids.append(entry.get("id", place))
                owners[place], categories[place] = int(entry["image_id"]), int(entry["category_id"])
                boxes[place] = sides_of(entry["bbox"], self._where(ids[place]))
                crowds[place] = bool(entry.get("iscrowd", 0))
        except FAULTS as error:
            raise _wrong("annotation", what, entry, place, self.file, error) from None
        _once("annotation", (str(one["id"]) for one in annotations if "id" in one), self.file)
        listed = np.isin(owners, images)
        self.without_image = count - int(listed.sum())
        order = np.argsort(owners, kind="stable")
        order = order[listed[order]]
        self.boxes, self.categories, self.crowds = boxes[order], categories[order], crowds[order]
        self.ids, owners = [ids[place] for place in order], owners[order]
        self.first, self.end = (np.searchsorted(owners, images, side) for side in ("left", "right"))

    def used(self) -> set[str]:
        """Names of the objects' categories."""
        return {self._category(own) for own in np.unique(self.categories).tolist()}

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, row: int) -> Picture:
        file = self.folder / self.files[row]
        objects = tuple(self._object(own) for own in range(self.first[row], self.end[row]))
        return Picture(file, str(file), self.sizes[row], objects)

    def _object(self, row: int) -> Object:
        left, top, width, height = self.boxes[row].tolist()
        name = self._category(int(self.categories[row]))
        flag = CROWD if self.crowds[row] else 0
        return object_of_sides(name, (left, top, width, height), flag, self._where(self.ids[row]))

    def _category(self, number: int) -> str:
        return self.names.get(number, f"category {number}")

    def _where(self, number: Any) -> str:
        return f"annotation {number} of {self.file}"

    def _folder(self, root: Path) -> Path:
        if not self.files:
            raise SteppeError(
                "a split must hold at least one image",
                got=f"{self.file}, no image",
                way_out=f"list its images there, or {OTHER_SPLITS}",
            )
        places = [root / self.name, root / "images" / self.name, root / "images", self.file.parent]
        first = self.files[0]
        for place in places:
            if (place / first).is_file():
                return place
        raise SteppeError(
            "every image of a split must be there",
            got=f"no {first} of {self.file} in {', '.join(str(p) for p in places)}",
            way_out="restore it, or take it out of the file",
        )


def _parts(file: Path) -> dict[str, Sequence[Any]]:
    """The lists of a file.

    Raises:
        SteppeError: it is no JSON, or one is not there.
    """
    whole = _json(file)
    parts = ("images", "annotations", "categories")
    for part in parts:
        if not isinstance(whole, dict) or not isinstance(whole.get(part), list):
            what = f"keys {', '.join(whole) or 'none'}" if isinstance(whole, dict) else "no mapping"
            raise SteppeError(
                f"a COCO file is a mapping of lists: {', '.join(parts)}",
                got=f"no list of {part} in {file} ({what[:200]})",
                way_out="export it anew as COCO's annotations of instances",
            )
    return {part: whole[part] for part in parts}


@contextmanager
def _named(kind: str, what: str, entry: Any, place: int, file: Path) -> Iterator[None]:
    """Say which entry it is that lacks something."""
    try:
        yield
    except FAULTS as error:
        raise _wrong(kind, what, entry, place, file, error) from None


def _wrong(
    kind: str, what: str, entry: Any, place: int, file: Path, error: Exception
) -> SteppeError:
    if isinstance(error, SteppeError):
        return error
    said = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)[:100]
    if not isinstance(entry, dict):
        said = f"{str(entry)[:100]!r}, which is no mapping,"
    return SteppeError(
        f"each {kind} of a COCO file has {what}",
        got=f"{said} in {kind} number {place + 1} of {file}",
        way_out="write it, or export the file anew as COCO's annotations of instances",
    )


def _once(kind: str, own: Iterable[Any], file: Path, article: str = "an", noun: str = "id") -> None:
    """Refuse an id, or a file, that two entries have: one would get what is the other's.

    Raises:
        SteppeError: there is one.
    """
    twice = [one for one, count in Counter(own).items() if count > 1]
    if twice:
        raise SteppeError(
            f"each {kind} of a COCO file has {article} {noun} of its own",
            got=f"{counted(len(twice), noun)} of several, such as {twice[0]} in {file}",
            consequence="it would stand for both, or count twice",
            way_out="take the second one out, or mend it",
        )


def _size(image: Any) -> tuple[int, int] | None:
    return (int(image["width"]), int(image["height"])) if "width" in image else None


def _split(root: Path, asked: str | None, usual: tuple[str, ...], key: str) -> _Split:
    names = usual if asked is None else (asked,)
    for name in names:
        files = (
            root / "annotations" / f"instances_{name}.json",
            root / name / "_annotations.coco.json",
        )
        for file in files:
            if file.is_file():
                return _Split(root, name, file)
    raise SteppeError(
        "a split of COCO's layout is annotations/instances_SPLIT.json or "
        "SPLIT/_annotations.coco.json",
        got=f"none for {' or '.join(names)} in {root}",
        way_out=another_layout("coco", root) or _there(root, key),
    )


def _there(root: Path, key: str) -> str:
    """How another split is named, of those that there are."""
    beside = (file.parent.name for file in root.glob("*/_annotations.coco.json"))
    files = (f.stem.removeprefix("instances_") for f in root.glob("annotations/instances_*.json"))
    there = sorted({*beside, *files})
    named = f"--set data.{key}=NAME, of {', '.join(there)}" if there else ""
    missing = "write one with images that no other split lists"
    return f"{named}, or {missing}" if named else missing


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"), object_hook=_without_outline)
    except (OSError, ValueError) as error:
        raise SteppeError(
            "annotations must be JSON",
            got=f"{file} ({str(error)[:200]})",
            way_out="restore the file, or export it anew",
        ) from None


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    """What is read, without the polygons, which are most of a file and are not needed."""
    entry.pop("segmentation", None)
    return entry
