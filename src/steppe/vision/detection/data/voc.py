"""Pascal VOC folders: Annotations, ImageSets/Main, JPEGImages."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from steppe.core.errors import SteppeError
from steppe.vision.detection.data import OTHER_SPLITS, READERS, Wanted, another_layout
from steppe.vision.detection.data.base import Object, Picture, Source
from steppe.vision.detection.targets import DIFFICULT

SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
TRAIN, TEST = ("trainval", "train"), ("test", "val")


@READERS.register("voc")
class VOC:
    """One folder, or several with commas between them (2007 and 2012 together).

    A folder need not have both splits (2012 has no test images); a note says which has not.
    """

    @staticmethod
    def claims(path: Path) -> bool:
        """A folder with Annotations and ImageSets."""
        return (path / "Annotations").is_dir() and (path / "ImageSets").is_dir()

    @staticmethod
    def read(name: str, wanted: Wanted) -> Source:
        """Both splits of the folders.

        Args:
            name: the folders.
            wanted: names of the splits; trainval (or else train) and test (or else val) where
                none are given.

        Raises:
            SteppeError: a folder, split, annotation or image is not there, or no XML; a folder has
                neither split.
        """
        roots = [Path(part.strip()).expanduser() for part in name.split(",")]
        for root in roots:
            if not (root / "Annotations").is_dir():
                raise SteppeError(
                    "a Pascal VOC folder holds Annotations, ImageSets/Main and JPEGImages",
                    got=f"{root}, without Annotations"
                    if root.is_dir()
                    else f"{root}, which is no folder",
                    way_out=another_layout("voc", root)
                    or "--data voc:FOLDER, the one that holds these three",
                )
        train = _split(roots, wanted.train_split, TRAIN, "train_split")
        test = _split(roots, wanted.test_split, TEST, "test_split")
        notes = [f"trained on {train.name}, tested on {test.name}"]
        for split, use in ((train, "trained"), (test, "tested")):
            notes += [
                f"{root} has no {split.name}.txt: none of it is {use} on" for root in split.without
            ]
        for root in train.without:
            if root in test.without:
                raise SteppeError(
                    "of each Pascal VOC folder some images are trained or tested on",
                    got=f"{root}, which has neither {train.name}.txt nor {test.name}.txt",
                    way_out=f"leave it out, or {OTHER_SPLITS}",
                )
        return Source(train.pictures, test.pictures, (), tuple(notes))


@dataclass(frozen=True)
class _Split:
    """A split of all folders that have it.

    Args:
        name: of the split.
        pictures: its images.
        without: the folders that do not have it.
    """

    name: str
    pictures: list[Picture]
    without: list[Path]


def _split(roots: list[Path], asked: str | None, usual: tuple[str, ...], key: str) -> _Split:
    """The first split that there is, of all folders that have it.

    Raises:
        SteppeError: there is none.
    """
    names = usual if asked is None else (asked,)
    for name in names:
        files = [(root, root / "ImageSets" / "Main" / f"{name}.txt") for root in roots]
        there = [(root, file) for root, file in files if file.is_file()]
        if there:
            pictures = [picture for root, file in there for picture in _pictures(root, file)]
            return _Split(name, pictures, [root for root, file in files if not file.is_file()])
    folder = roots[0] / "ImageSets" / "Main"
    have = sorted(f.stem for f in folder.glob("*.txt") if "_" not in f.stem)
    raise SteppeError(
        "a split is a file of ImageSets/Main",
        got=f"no {' or '.join(f'{name}.txt' for name in names)} in {folder}",
        way_out=(f"--set data.{key}=NAME, of {', '.join(have)}, or " if have else "")
        + "write it: one image a line, none of another split",
    )


def _pictures(root: Path, file: Path) -> list[Picture]:
    """The images of a split, in its order."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SteppeError(
            "a split must be a readable text",
            got=f"{file} ({error})",
            way_out=f"write it in UTF-8, one image a line, or {OTHER_SPLITS}",
        ) from None
    stems = [line.split()[0] for line in lines if line.strip()]
    if not stems:
        raise SteppeError(
            "a split must hold at least one image",
            got=f"{file}, which is empty",
            way_out=f"write one image a line, or {OTHER_SPLITS}",
        )
    return [_picture(root, stem, file) for stem in stems]


def _picture(root: Path, stem: str, file: Path) -> Picture:
    annotation = root / "Annotations" / f"{stem}.xml"
    places = [root / "JPEGImages" / f"{stem}{suffix}" for suffix in SUFFIXES]
    image = next((place for place in places if place.is_file()), None)
    if image is None:
        raise SteppeError(
            "every image of a split must be there",
            got=f"no {places[0]}, which {file} names",
            way_out="restore it, or take it out of the split",
        )
    tree = _xml(annotation, file)
    objects = tuple(_object(node, n, annotation) for n, node in enumerate(tree.findall("object")))
    return Picture(image, str(image), _size(tree, annotation), objects)


def _xml(path: Path, file: Path) -> ET.Element:
    try:
        tree = ET.parse(path).getroot()
    except FileNotFoundError:
        raise SteppeError(
            "every image of a split must have its annotation",
            got=f"no {path}, which {file} names",
            way_out="restore it, or take the image out of the split",
        ) from None
    except (ET.ParseError, OSError, UnicodeDecodeError, ValueError) as error:
        raise SteppeError(
            "an annotation must be XML",
            got=f"{path} ({'an empty file' if _is_empty(path) else error})",
            consequence="it is not known what its image shows",
            way_out=f"restore it, or take its image out of {file}",
        ) from None
    if tree.tag == "annotation":
        return tree
    raise SteppeError(
        "an annotation of Pascal VOC begins with annotation",
        got=f"{path}, which begins with {tree.tag}",
        consequence="its objects may be written in another way, and would not be found",
        way_out=f"export it as Pascal VOC, or take its image out of {file}",
    )


def _is_empty(path: Path) -> bool:
    return path.is_file() and not path.stat().st_size


def _number(node: ET.Element, key: str, where: str) -> float:
    text = node.findtext(key)
    try:
        number = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if math.isfinite(number):
        return number
    raise SteppeError(
        f"an annotation has a number as {key}",
        got=f"{'none' if text is None else repr(text)} in {where}",
        consequence="it is not known where its objects are",
        way_out="write the number of pixels",
    )


def _size(tree: ET.Element, path: Path) -> tuple[int, int] | None:
    """Width and height; None where a tool wrote zeros or nothing."""
    node = tree.find("size")
    if node is None:
        return None
    width, height = (int(_number(node, key, str(path))) for key in ("width", "height"))
    return (width, height) if width and height else None


def _object(node: ET.Element, number: int, path: Path) -> Object:
    where = f"object {number + 1} of {path}"
    box = node.find("bndbox")
    if box is None:
        raise SteppeError(
            "an object has a bndbox",
            got=f"none in {where}",
            consequence="it is not known where it is",
            way_out="write its xmin, ymin, xmax and ymax, or take the object out",
        )
    stored = {key: _number(box, key, where) for key in ("xmin", "ymin", "xmax", "ymax")}
    left, top, right, bottom = stored.values()
    # pixels are counted from 1 and both ends belong to a box, but one without extent is no pixel
    ends = (right - (right <= left), bottom - (bottom <= top))
    difficult = (node.findtext("difficult") or "0").strip() or "0"
    if difficult not in ("0", "1"):
        raise SteppeError(
            "difficult is 0 or 1",
            got=f"{difficult!r} in {where}",
            consequence="difficult objects count neither as found nor as missed",
            way_out="write 0 or 1",
        )
    name = (node.findtext("name") or "").strip()
    flag = DIFFICULT if difficult == "1" else 0
    return Object(name, (left - 1, top - 1, *ends), flag, where, stored, first=1)
