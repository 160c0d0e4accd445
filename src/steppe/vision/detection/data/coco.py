"""COCO's layout: one JSON of all images and objects for each split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from steppe.core.errors import SteppeError
from steppe.core.text import counted
from steppe.vision.detection.data import READERS, Wanted
from steppe.vision.detection.data.base import Object, Picture, Source, ends
from steppe.vision.detection.targets import CROWD

TRAIN, TEST = ("train2017", "train"), ("val2017", "test", "val", "valid")


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
            raise SteppeError("a COCO dataset is a folder", got=f"{root}, which is none")
        train = _split(root, wanted.train_split, TRAIN, "train_split")
        test = _split(root, wanted.test_split, TEST, "test_split")
        names = dict(train.names)
        other = {n: own for n, own in test.names.items() if names.get(n, own) != own}
        if other:
            raise SteppeError(
                "the splits of a dataset have the same categories",
                got=f"{train.file} and {test.file}, which differ in {', '.join(other.values())}",
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


class _Split(Sequence[Picture]):
    """One JSON; its images with their objects are made of columns as they are asked for.

    Args:
        root: the folder.
        name: of the split.
        file: the JSON.
    """

    def __init__(self, root: Path, name: str, file: Path) -> None:
        self.name, self.file = name, file
        whole = _json(file)
        try:
            self.names = {int(c["id"]): str(c["name"]) for c in whole["categories"]}
            self.folder = self._folder(root, whole["images"])
            self.files = [str(one["file_name"]) for one in whole["images"]]
            self.sizes = [_size(one) for one in whole["images"]]
            images = np.array([int(one["id"]) for one in whole["images"]])
            self._read(whole["annotations"], images)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, SteppeError):
                raise
            raise SteppeError(
                "a COCO file has images, annotations and categories with their keys",
                got=f"{file} ({type(error).__name__}: {error})",
            ) from None

    def _read(self, annotations: Sequence[Any], images: NDArray[np.int64]) -> None:
        """Columns of the objects, those of an image in a row."""
        count = len(annotations)
        owners, categories = np.zeros(count, np.int64), np.zeros(count, np.int64)
        boxes, crowds = np.zeros((count, 4)), np.zeros(count, bool)
        ids = [entry.get("id", place) for place, entry in enumerate(annotations)]
        for place, entry in enumerate(annotations):
            owners[place], categories[place] = int(entry["image_id"]), int(entry["category_id"])
            boxes[place] = ends(entry["bbox"], self._where(ids[place]))
            crowds[place] = bool(entry.get("iscrowd", 0))
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

    @overload
    def __getitem__(self, row: int) -> Picture: ...
    @overload
    def __getitem__(self, row: slice) -> list[Picture]: ...
    def __getitem__(self, row: int | slice) -> Picture | list[Picture]:
        if isinstance(row, slice):
            return [self[own] for own in range(*row.indices(len(self)))]
        file = self.folder / self.files[row]
        objects = tuple(self._object(own) for own in range(self.first[row], self.end[row]))
        return Picture(file, str(file), self.sizes[row], objects)

    def _object(self, row: int) -> Object:
        left, top, right, bottom = self.boxes[row].tolist()
        name = self._category(int(self.categories[row]))
        flag = CROWD if self.crowds[row] else 0
        return Object(name, (left, top, right, bottom), flag, self._where(self.ids[row]))

    def _category(self, number: int) -> str:
        return self.names.get(number, f"category {number}")

    def _where(self, number: Any) -> str:
        return f"annotation {number} of {self.file}"

    def _folder(self, root: Path, images: Sequence[Any]) -> Path:
        if not images:
            raise SteppeError("a split must hold at least one image", got=f"{self.file}, no image")
        places = [root / self.name, root / "images" / self.name, root / "images", self.file.parent]
        first = str(images[0]["file_name"])
        for place in places:
            if (place / first).is_file():
                return place
        raise SteppeError(
            "every image of a split must be there",
            got=f"no {first} of {self.file} in {', '.join(str(p) for p in places)}",
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
        way_out=f"data.{key}",
    )


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"), object_hook=_without_outline)
    except (OSError, ValueError) as error:
        raise SteppeError("annotations must be JSON", got=f"{file} ({error})") from None


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    """What is read, without the polygons, which are most of a file and are not needed."""
    entry.pop("segmentation", None)
    return entry
