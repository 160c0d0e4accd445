"""Images in folders: train/<class>/*.png and test/<class>/*.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.vision.data.base import Rows, Source
from steppe.vision.data.cache import stamp
from steppe.vision.data.decode import decode, is_grey
from steppe.vision.data.parquet import TEST_NAMES

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


def imagefolder(folder: Path, size: int | None = None) -> Source:
    """A dataset from a folder per class.

    Args:
        folder: holds ``train`` and one of ``test``, ``validation``, ``valid``, ``val``, each with
            a folder per class; classes are numbered in alphabetical order of ``train``.
        size: height and width to scale and crop to; None where all images have one size.

    Returns:
        The source; files are listed, not read.

    Raises:
        SteppeError: a split is missing or empty, or the test split has a class that train lacks.
    """
    tests = [folder / name for name in TEST_NAMES if (folder / name).is_dir()]
    if not (folder / "train").is_dir() or not tests:
        raise SteppeError(
            "a dataset folder needs train/<class>/ and test/<class>/, or train and test .parquet",
            got=folder,
            consequence=f"it holds {', '.join(sorted(p.name for p in folder.iterdir())[:8])}",
        )
    classes = tuple(sorted(p.name for p in (folder / "train").iterdir() if _visible(p)))
    train = _rows(folder / "train", classes, size)
    return Source(train=train, test=_rows(tests[0], classes, size), classes=classes)


def _rows(split: Path, classes: Sequence[str], size: int | None) -> Rows:
    files: list[Path] = []
    labels: list[int] = []
    for folder in sorted(filter(_visible, split.iterdir())):
        if folder.name not in classes:
            raise SteppeError(
                f"classes in {split.name} must be in train too",
                got=folder,
                way_out=f"rename it to one of {', '.join(classes[:10])}, or remove it",
            )
        images = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
        files += images
        labels += [classes.index(folder.name)] * len(images)
    if not files:
        raise SteppeError(
            "a split of a dataset must have images",
            got=split,
            consequence=f"no {', '.join(sorted(SUFFIXES))} in its class folders",
        )

    def describe(row: int) -> str:
        return str(files[row])

    def decode_rows(chosen: Sequence[int]) -> Tensor:
        grey = is_grey(files[0], describe(0))
        blobs = [files[row] for row in chosen]
        return decode(blobs, describe=lambda i: describe(chosen[i]), grey=grey, size=size)

    return Rows(labels, decode_rows, describe, f"{stamp(files)}\nsize={size}")


def _visible(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")
