"""Images in parquet files, in the layout of the hub's image datasets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require
from steppe.vision.data.base import Rows, Source
from steppe.vision.data.cache import stamp
from steppe.vision.data.decode import decode, is_grey

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label")
TEST_NAMES = ("test", "validation", "valid", "val")


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
    return sorted(folder.rglob("*.parquet"))


def parquet(files: Sequence[Path], size: int | None = None) -> Source:
    """A dataset from files called train*.parquet and test*.parquet (or validation, valid, val).

    Columns: ``img`` or ``image``, a struct with ``bytes`` (or plain binary), and ``label``.

    Args:
        files: as :func:`find` gives them.
        size: height and width to scale and crop to; None where all images have one size.

    Returns:
        The source; only labels are read until images are asked for.

    Raises:
        SteppeError: no file for training or testing, a column missing, not a parquet file.
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
    train_split, test_split = _ParquetSplit(train, size), _ParquetSplit(test, size)
    classes = train_split.classes
    return Source(train=train_split.rows(), test=test_split.rows(), classes=classes)


class _ParquetSplit:
    """The files of one split, read as one table."""

    def __init__(self, files: Sequence[Path], size: int | None) -> None:
        pq = require("pyarrow.parquet", install="pyarrow", purpose="reading parquet files")
        self.size = size
        self.tables: list[tuple[Path, Any]] = []
        for file in files:
            try:
                self.tables.append((file, pq.ParquetFile(file)))
            except (OSError, ValueError) as error:  # pyarrow.ArrowInvalid is a ValueError
                raise SteppeError("must be a parquet file", got=f"{file} ({error})") from error
        names = self.tables[0][1].schema_arrow.names
        self.image = _column(names, IMAGE_COLUMNS, files[0])
        self.label = _column(names, LABEL_COLUMNS, files[0])
        self.classes = _classes(self.tables[0][1].schema_arrow.metadata or {}, self.label)

    def rows(self) -> Rows:
        labels: list[object] = []
        for file, table in self.tables:
            _column(table.schema_arrow.names, (self.image,), file)
            _column(table.schema_arrow.names, (self.label,), file)
            labels += table.read(columns=[self.label]).column(0).to_pylist()
        key = f"{stamp(file for file, _ in self.tables)}\nsize={self.size}"
        return Rows(labels, self.decode, self.describe, key)

    def describe(self, row: int) -> str:
        for file, table in self.tables:
            if row < table.metadata.num_rows:
                return f"row {row} of {file}"
            row -= table.metadata.num_rows
        raise IndexError(row)

    def decode(self, chosen: Sequence[int]) -> Tensor:
        # The mode is decided by row 0, so that it does not depend on what is selected.
        grey = is_grey(next(self.blobs([0])), self.describe(0))
        return decode(
            list(self.blobs(chosen)),
            describe=lambda i: self.describe(chosen[i]),
            grey=grey,
            size=self.size,
        )

    def blobs(self, chosen: Sequence[int]) -> Iterator[bytes]:
        """The encoded images of ascending rows, one row group in memory at a time."""
        start, last = 0, 0
        for _, table in self.tables:
            for group in range(table.num_row_groups):
                end, first = start + table.metadata.row_group(group).num_rows, last
                while last < len(chosen) and chosen[last] < end:
                    last += 1
                if last > first:
                    column = table.read_row_group(group, columns=[self.image]).column(self.image)
                    rows = chosen[first:last]
                    for row, cell in zip(rows, column.take([r - start for r in rows]), strict=True):
                        yield self.cell(cell.as_py(), row)
                start = end

    def cell(self, value: Any, row: int) -> bytes:
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise SteppeError(
                f"column {self.image} must hold encoded images (a struct with bytes, or binary)",
                got=f"{type(data).__name__} in {self.describe(row)}",
                way_out="save the dataset with its images embedded",
            )
        return data


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
