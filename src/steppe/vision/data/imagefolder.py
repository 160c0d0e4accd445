"""Images in folders: train/<class>/*.png and test/<class>/*.png."""

from __future__ import annotations

import functools
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from steppe.core.errors import SteppeError
from steppe.core.text import counted
from steppe.vision.data.base import Source
from steppe.vision.data.blobs import Blobs, Names
from steppe.vision.data.cache import stamp
from steppe.vision.data.encoded import Encoded, source
from steppe.vision.data.levels import Reading
from steppe.vision.data.split_names import SPLITS, TEST_NAMES, is_hidden

# Of all that PIL opens, what holds one image of pixels.
_IMAGES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".webp", ".gif", ".tif"),
    *(".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".avif", ".jp2", ".j2k", ".tga", ".qoi"),
)
_AS_STORED = Reading()


@functools.cache
def suffixes() -> frozenset[str]:
    """How the names of images end that PIL, as installed here, can open.

    Example:
        >>> ".png" in suffixes(), ".txt" in suffixes()
        (True, False)
    """
    known = Image.registered_extensions()
    return frozenset(suffix for suffix in _IMAGES if known.get(suffix) in Image.OPEN)


def imagefolder(folder: Path, reading: Reading = _AS_STORED) -> Source:
    """A dataset from a folder per class.

    Args:
        folder: holds ``train`` and one of ``test``, ``validation``, ``valid``, ``val``, each with
            a folder per class; classes are numbered in alphabetical order of ``train``.
        reading: how images become pixels.

    Returns:
        The source; files are listed, not read. What is left out of the folders is in its notes.

    Raises:
        SteppeError: a split is missing or empty, or the test split has a class that train lacks.
    """
    tests = [folder / name for name in TEST_NAMES if (folder / name).is_dir()]
    if not (folder / "train").is_dir() or not tests:
        raise SteppeError(
            "a dataset folder needs train/<class>/ and test/<class>/ (or validation/, valid/ or "
            "val/), or train and test .parquet",
            got=folder,
            consequence=f"it holds {', '.join(sorted(p.name for p in folder.iterdir())[:8])}",
            way_out=_whole(folder),
        )
    classes = tuple(sorted(p.name for p in (folder / "train").iterdir() if _visible(p)))
    train, of_train = _split("train", folder / "train", classes)
    test, of_test = _split("test", tests[0], classes)
    notes = [*of_train, *of_test]
    if len(tests) > 1:
        others = ", ".join(f"{other.name}/" for other in tests[1:])
        notes.append(f"{tests[0].name}/ is what is tested on: {others} left out")
    return source(train, test, reading, classes, notes)


def _whole(folder: Path) -> str:
    """What makes a dataset of a folder that lacks a split."""
    around = [folder.parent, *(p for p in sorted(folder.iterdir()) if _visible(p))]
    splits = [(p, {s for s in SPLITS if (p / s).is_dir()}) for p in around]
    whole = [p for p, there in splits if "train" in there and len(there) > 1]
    if whole:
        return f"give {shlex.quote(str(whole[0]))}"
    base = folder.parent if folder.name == "train" else folder
    if (base / "train").is_dir():
        given = shlex.quote(str(base))
        then = "" if base == folder else f"; give {given}"
        return f"put images to test on, none of train/, into {given}/val/<class>/{then}"
    return "put the folders of the classes into train/, and others like them, to test on, into val/"


class Files(Blobs):
    """Images in files below one folder.

    Args:
        folder: that they lie below.
        names: of the files, as seen from there.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = str(folder), Names(names)

    def __len__(self) -> int:
        return len(self.names)

    def blob(self, row: int) -> Path:
        return Path(self.folder, self.names[row])

    def describe(self, row: int) -> str:
        return str(self.blob(row))

    def key(self) -> str:
        return stamp(map(self.blob, range(len(self))))


def _split(name: str, split: Path, classes: Sequence[str]) -> tuple[Encoded, list[str]]:
    files: list[str] = []
    labels: list[int] = []
    numbers = {name: number for number, name in enumerate(classes)}
    left: Counter[str] = Counter()
    deeper: Counter[str] = Counter()
    for entry in sorted(split.iterdir()):
        if _visible(entry) and entry.name not in classes:
            raise SteppeError(
                f"classes in {split.name} must be in train too",
                got=entry,
                way_out=f"rename it to one of {', '.join(classes[:10])}, or remove it",
            )
        # a class folder may be a link, which a walk from above would not enter
        for path in sorted(entry.rglob("*")) if entry.is_dir() else [entry]:
            if not path.is_file():
                continue
            why = _left_out(path.relative_to(split).parts)
            if why:
                left[why] += 1
                continue
            files.append(str(path.relative_to(split)))
            labels.append(numbers[entry.name])
            below = path.parent.relative_to(split).as_posix()
            if below != entry.name:
                deeper[below] += 1
    if not files:
        raise SteppeError(
            "a split of a dataset must have images",
            got=split,
            consequence=f"no {', '.join(sorted(suffixes()))} in its class folders"
            + (f", but {_counted(left)}" if left else ""),
        )

    encoded = Encoded(name=name, labels=labels, blobs=Files(split, files))
    notes = [f"{split.name}/: left out: {_counted(left)}"] if left else []
    if deeper:
        few = ", ".join(sorted(deeper)[:3])
        lie = "lies" if deeper.total() == 1 else "lie"
        notes.append(
            f"{split.name}/: {counted(deeper.total(), 'image')} {lie} deeper than their class's "
            f"folder ({few}"
            f"{', ...' if len(deeper) > 3 else ''})"
        )
    return encoded, notes


def _left_out(parts: Sequence[str]) -> str:
    """Why a file is no image of the dataset; "" for those that are.

    Args:
        parts: of its path below the split.
    """
    *folders, name = parts
    hidden = next(filter(is_hidden, folders), None)
    suffix = Path(name).suffix.lower()
    if hidden is not None:
        return f"in {hidden}"
    if is_hidden(name):
        return f"hidden ({name})" if name.count(".") == 1 else f"hidden (.*{suffix})"
    if suffix not in suffixes():
        return f"of kind {suffix or '(no suffix)'}"
    return "" if folders else "outside of the class folders"


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(
        f"{count} {'file' if count == 1 else 'files'} {why}" for why, count in reasons.most_common()
    )


def _visible(path: Path) -> bool:
    return path.is_dir() and not is_hidden(path.name)
