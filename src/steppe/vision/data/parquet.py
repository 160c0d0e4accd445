"""Images in parquet files, in the layout of the hub's image datasets."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require
from steppe.vision.data.base import Source
from steppe.vision.data.encoded import Encoded, source
from steppe.vision.data.levels import Reading
from steppe.vision.data.row_groups import ParquetFiles

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label")
_AS_STORED = Reading()
TEST_NAMES = ("test", "validation", "valid", "val")


def is_hidden(name: str) -> bool:
    """Whether a file or folder is another program's: a notebook's copies, an archive's marks.

    Example:
        >>> is_hidden(".ipynb_checkpoints"), is_hidden("__MACOSX"), is_hidden("cats")
        (True, True, False)
    """
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


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


def parquet(files: Sequence[Path], reading: Reading = _AS_STORED) -> Source:
    """A dataset from files called train*.parquet and test*.parquet (or validation, valid, val).

    Columns: ``img`` or ``image``, a struct with ``bytes`` (or plain binary), and ``label``.

    Args:
        files: as :func:`find` gives them.
        reading: how images become pixels.

    Returns:
        The source; only labels are read until images are asked for.

    Raises:
        SteppeError: no file for training or testing, a column missing, not a parquet file, files
            of several configurations.
    """
    train = [file for file in files if file.name.startswith("train")]
    tests = ([f for f in files if f.name.startswith(name)] for name in TEST_NAMES)
    test = next(filter(None, tests), [])
    if not train or not test:
        raise SteppeError(
            "a parquet dataset needs train*.parquet and test*.parquet",
            got=", ".join(file.name for file in files[:10]) or "no file",
            way_out="name the files train.parquet and test.parquet",
        )
    _one_configuration(train, test)
    (train_split, classes), (test_split, _) = _split("train", train), _split("test", test)
    return source(train_split, test_split, reading, classes, _unused(files, train, test))


def _one_configuration(train: Sequence[Path], test: Sequence[Path]) -> None:
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


def _unused(files: Sequence[Path], train: Sequence[Path], test: Sequence[Path]) -> list[str]:
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


def _split(name: str, files: Sequence[Path]) -> tuple[Encoded, tuple[str, ...]]:
    """One split, and the names of its classes."""
    pq = require("pyarrow.parquet", install="pyarrow", purpose="reading parquet files")
    tables: list[tuple[Path, Any]] = []
    for file in files:
        try:
            tables.append((file, pq.ParquetFile(file)))
        except (OSError, ValueError) as error:  # pyarrow.ArrowInvalid is a ValueError
            raise SteppeError("must be a parquet file", got=f"{file} ({error})") from error
    schema = tables[0][1].schema_arrow
    image = _column(schema.names, IMAGE_COLUMNS, files[0])
    label = _column(schema.names, LABEL_COLUMNS, files[0])
    labels: list[object] = []
    for file, table in tables:
        _column(table.schema_arrow.names, (image,), file)
        _column(table.schema_arrow.names, (label,), file)
        labels += table.read(columns=[label]).column(0).to_pylist()
    blobs = ParquetFiles(files, image, [table.metadata for _, table in tables])
    return Encoded(name=name, labels=labels, blobs=blobs), _classes(schema.metadata or {}, label)


def _column(names: Sequence[str], wanted: Sequence[str], file: Path) -> str:
    for name in wanted:
        if name in names:
            return name
    raise SteppeError(
        f"a parquet dataset needs a column called {' or '.join(wanted)}",
        got=f"{', '.join(names) or 'no columns'} in {file}",
        way_out="rename the column",
    )


def _classes(metadata: dict[bytes, bytes], label: str) -> tuple[str, ...]:
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return tuple(features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return ()  # written by the datasets library; many files have none
