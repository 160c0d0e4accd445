"""Images in parquet files, in the layout of the hub's image datasets."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from steppe.core.errors import SteppeError
from steppe.vision.data.base import Source
from steppe.vision.data.encoded import Encoded, source
from steppe.vision.data.levels import Reading
from steppe.vision.data.places import HERE, Elsewhere, Place
from steppe.vision.data.row_groups import ParquetFiles, parquet_file
from steppe.vision.data.split_names import SPLITS, TEST_NAMES, is_hidden, split_of

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label")
_AS_STORED = Reading()
HIDDEN = -1
"""The label of images whose label is kept secret, as in ImageNet's test split."""
THREADS = 16
"""Files whose labels are read at a time."""


def find(path: str) -> list[Path]:
    """The parquet files under a folder, of a pattern, or beside a file; sorted.

    Example:
        >>> find("no/such/folder")
        []
    """
    if has_magic(path):
        return sorted(Path(p) for p in glob(path, recursive=True) if p.endswith(".parquet"))
    folder = Path(path)
    if folder.suffix == ".parquet" and folder.is_file():
        return sorted(folder.parent.glob("*.parquet"))
    every = folder.rglob("*.parquet")
    return sorted(p for p in every if not any(map(is_hidden, p.relative_to(folder).parts)))


def elsewhere(url: str, reading: Reading = _AS_STORED) -> Source:
    """A dataset of parquet files behind a URL, which are not downloaded as a whole.

    Args:
        url: that fsspec knows: ``hf://datasets/org/name``, ``s3://bucket/folder``, ...
        reading: how images become pixels.

    Raises:
        SteppeError: it cannot be reached, or as `parquet`.
    """
    place = Elsewhere(url)
    files = [PurePosixPath(file) for file in place.files()]
    if not files:
        raise SteppeError(
            "a dataset behind a URL is made of parquet files",
            got=f"none below {url}",
            way_out="of a dataset of the hub in another format: "
            "hf://datasets/ORG/NAME@refs%2Fconvert%2Fparquet/CONFIGURATION",
        )
    return parquet(files, reading, place)


def parquet(
    files: Sequence[PurePath], reading: Reading = _AS_STORED, place: Place = HERE
) -> Source:
    """A dataset from files called train*.parquet and test*.parquet (or validation, valid, val).

    A split may be the name of a folder instead (``train/0000.parquet``). Columns: ``img`` or
    ``image``, a struct with ``bytes`` (or plain binary), and ``label``; or what the datasets
    library has written down as an image and a class.

    Args:
        files: as :func:`find` gives them.
        reading: how images become pixels.
        place: where they lie.

    Returns:
        The source; only labels are read until images are asked for.

    Raises:
        SteppeError: no file for training or testing, a column missing, not a parquet file, files
            of several configurations, a name that says several splits.
    """
    of = {name: [file for file in files if _is_of(file, name)] for name in SPLITS}
    tests = [name for name in TEST_NAMES if of[name]]
    if not of["train"] or not tests:
        raise SteppeError(
            "a parquet dataset needs train*.parquet and test*.parquet",
            got=", ".join(file.name for file in files[:10]) or "no file",
            way_out="name the files train.parquet and test.parquet",
        )
    train, test = of["train"], of[tests[0]]
    _one_configuration(train, test)
    (train_split, classes), (test_split, _) = (
        _split("train", train, place),
        _split("test", test, place),
    )
    notes = []
    while tests[1:] and all(label == HIDDEN for label in test_split.labels):
        notes.append(f"{tests.pop(0)} has no labels: tested on {tests[0]}")
        test = of[tests[0]]
        _one_configuration(train, test)
        test_split, _ = _split("test", test, place)
    notes += _unused(files, train, test)
    return source(train_split, test_split, reading, classes, notes)


def _is_of(file: PurePath, split: str) -> bool:
    """By its name; or by its folder's, where its name says no split."""
    return (split_of(file.name, file.parent) or file.parent.name) == split


def _one_configuration(train: Sequence[PurePath], test: Sequence[PurePath]) -> None:
    """Whether all files of a split lie in one folder: of another they may be another dataset."""
    for files in (train, test):
        folders = sorted({file.parent for file in files})
        if len(folders) > 1:
            raise SteppeError(
                "a dataset's folder must hold one configuration",
                got=f"{', '.join(f.name for f in files[:1])} and others in "
                f"{len(folders)} folders: {', '.join(f.name for f in folders[:8])}",
                consequence="their rows would be mixed",
                way_out=f"give one of them, such as {shlex.quote(str(folders[0]))}",
            )


def _unused(
    files: Sequence[PurePath], train: Sequence[PurePath], test: Sequence[PurePath]
) -> list[str]:
    """What is said of files that take no part, and of training files of several names."""
    others = [file for file in files if file not in train and file not in test]
    notes = []
    if others:
        names = ", ".join(sorted({file.name for file in others})[:8])
        notes.append(f"{len(others)} parquet files are neither train nor test: left out: {names}")
    for part in (train, test):
        stems = sorted({re.split(r"[-.\d]", file.name)[0] for file in part})
        if len(stems) > 1:
            notes.append(f"read as one split: the files of {' and '.join(stems)}")
    return notes


@dataclass(frozen=True)
class _Table:
    """What is read of a file at once: no image."""

    metadata: Any
    labels: list[object]


def _split(name: str, files: Sequence[PurePath], place: Place) -> tuple[Encoded, tuple[str, ...]]:
    """One split, and the names of its classes."""
    names = [str(file) for file in files]
    with parquet_file(place, names[0]) as first:
        schema = first.schema_arrow
    features = _features(schema.metadata or {})
    image = _column(
        schema.names, (*IMAGE_COLUMNS, *_of_kind(features, "Image")), names[0], IMAGE_COLUMNS
    )
    label = _column(
        schema.names, (*LABEL_COLUMNS, *_of_kind(features, "ClassLabel")), names[0], LABEL_COLUMNS
    )

    def read(file: str) -> _Table:
        with parquet_file(place, file) as table:
            for column in (image, label):
                _column(table.schema_arrow.names, (column,), file, (column,))
            return _Table(table.metadata, table.read(columns=[label]).column(0).to_pylist())

    with ThreadPoolExecutor(min(THREADS, len(names))) as pool:
        tables = list(pool.map(read, names))
    labels = [one for table in tables for one in table.labels]
    blobs = ParquetFiles(names, image, [table.metadata for table in tables], place)
    classes = features.get(label, {}).get("names", ())
    return Encoded(name=name, labels=labels, blobs=blobs), tuple(classes)


def _column(names: Sequence[str], wanted: Sequence[str], file: str, usual: Sequence[str]) -> str:
    for name in wanted:
        if name in names:
            return name
    raise SteppeError(
        f"a parquet dataset needs a column called {' or '.join(usual)}",
        got=f"{', '.join(names) or 'no columns'} in {file}",
        way_out="rename the column",
    )


def _features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """Column -> what the datasets library has written down of it; many files have nothing."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    known = features.items() if isinstance(features, dict) else ()
    return {column: of for column, of in known if isinstance(of, dict)}


def _of_kind(features: dict[str, Any], kind: str) -> list[str]:
    return [column for column, of in features.items() if of.get("_type") == kind]
