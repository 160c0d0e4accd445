"""COCO's layout: one JSON of all images and objects for each split."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
        used = {o.name for picture in train.pictures for o in picture.objects}
        classes = tuple(own for _, own in sorted(names.items()) if own in used)
        unused = [own for own in names.values() if own not in used]
        notes = [f"trained on {train.name}, tested on {test.name}"]
        if unused:
            notes.append(f"categories without a training object: {', '.join(unused[:5])}")
        for split in (train, test):
            if lost := split.without_image:
                objects = counted(lost, "annotation")
                notes.append(f"{objects} of images that {split.file} does not list left out")
        return Source(train.pictures, test.pictures, classes, tuple(notes))


class _Split:
    """One JSON.

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
            objects: dict[int, list[Object]] = defaultdict(list)
            for place, entry in enumerate(whole["annotations"]):
                objects[int(entry["image_id"])].append(self._object(entry, place))
            folder = self._folder(root, whole["images"])
            self.pictures = [self._picture(folder, one, objects) for one in whole["images"]]
            listed = {int(one["id"]) for one in whole["images"]}
            self.without_image = sum(len(own) for n, own in objects.items() if n not in listed)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, SteppeError):
                raise
            raise SteppeError(
                "a COCO file has images, annotations and categories with their keys",
                got=f"{file} ({type(error).__name__}: {error})",
            ) from None

    def _object(self, entry: Any, place: int) -> Object:
        where = f"annotation {entry.get('id', place)} of {self.file}"
        name = self.names.get(int(entry["category_id"]), f"category {entry['category_id']}")
        flag = CROWD if entry.get("iscrowd", 0) else 0
        return Object(name, ends(entry["bbox"], where), flag, where)

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

    def _picture(self, folder: Path, one: Any, objects: dict[int, list[Object]]) -> Picture:
        file = folder / str(one["file_name"])
        size = (int(one["width"]), int(one["height"])) if "width" in one else None
        return Picture(file, str(file), size, tuple(objects[int(one["id"])]))


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
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SteppeError("annotations must be JSON", got=f"{file} ({error})") from None
