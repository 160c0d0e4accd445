"""Images in the row groups of parquet files, read a group at a time."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require
from steppe.vision.data.blobs import Blobs
from steppe.vision.data.places import HERE, Place

WINDOW_BYTES = 128 * 2**20
"""So many bytes of row groups are shuffled among each other; a process keeps at most twice that."""
OPEN = 64
"""Files that a process keeps open."""


def parquet_file(place: Place, name: str) -> Any:
    """A parquet file, its footer read.

    Raises:
        SteppeError: it is none, or cannot be read.
    """
    pq = require("pyarrow.parquet", install="pyarrow", purpose="reading parquet files")
    try:
        return pq.ParquetFile(place.opened(name))
    except (OSError, ValueError) as error:  # pyarrow.ArrowInvalid is a ValueError
        raise SteppeError("must be a parquet file", got=f"{name} ({error})") from error


class ParquetFiles(Blobs):
    """The images of a column of several files, one after the other.

    A row cannot be read without its row group. An epoch therefore takes the groups in random order,
    and the rows in random order within a window of as many groups as `WINDOW_BYTES` hold. A process
    that keeps the groups of two windows so reads each group once at most; batches go to workers and
    ranks in turn, so each of these processes reads nearly every group. Where all fit into one
    window, any order is as likely as another.

    Args:
        files: in order.
        image: the column: a struct with ``bytes``, or binary.
        metadata: of each file.
        place: where they lie.
    """

    def __init__(
        self, files: Sequence[str], image: str, metadata: Sequence[Any], place: Place = HERE
    ) -> None:
        self.files, self.image, self.place = list(files), image, place
        groups = [
            (number, group, one.row_group(group).num_rows, one.row_group(group).total_byte_size)
            for number, one in enumerate(metadata)
            for group in range(one.num_row_groups)
        ]
        self.file = np.array([g[0] for g in groups], dtype=np.int64)
        self.group = np.array([g[1] for g in groups], dtype=np.int64)
        self.ends = np.cumsum([g[2] for g in groups], dtype=np.int64)
        self.window = max(1, int(WINDOW_BYTES // max(1.0, np.mean([g[3] for g in groups] or [1]))))
        self._forget()

    def _forget(self) -> None:
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: open files stay here."""
        return {key: value for key, value in vars(self).items() if key not in ("_kept", "_open")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def blob(self, row: int) -> bytes:
        group = int(np.searchsorted(self.ends, row, side="right"))
        return self._cell(self._column(group)[row - self._start(group)].as_py(), row)

    def in_order(self, rows: Sequence[int]) -> Iterator[bytes]:
        """One row group in memory at a time."""
        chosen = np.asarray(rows, dtype=np.int64)
        group_of = np.searchsorted(self.ends, chosen, side="right")
        for group in np.unique(group_of).tolist():
            own = chosen[group_of == group]
            column = self._read(group).take(own - self._start(group))
            for row, cell in zip(own.tolist(), column, strict=True):
                yield self._cell(cell.as_py(), row)

    def describe(self, row: int) -> str:
        number = self.file[np.searchsorted(self.ends, row, side="right")]
        before = self.ends[self.file < number]
        return f"row {row - (int(before[-1]) if len(before) else 0)} of {self.files[number]}"

    def key(self) -> str:
        return self.place.key(self.files)

    def order(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        group_of = torch.from_numpy(np.searchsorted(self.ends, rows.numpy(), side="right"))
        groups, counts = group_of.unique_consecutive(return_counts=True)
        if len(groups) <= self.window:
            return torch.randperm(len(rows), generator=generator)
        places = torch.arange(len(rows)).split(counts.tolist())
        shuffled = torch.randperm(len(groups), generator=generator).split(self.window)
        windows = [torch.cat([places[group] for group in some.tolist()]) for some in shuffled]
        return torch.cat([w[torch.randperm(len(w), generator=generator)] for w in windows])

    def _begin(self) -> None:
        """A forked process shares no open file with its parent."""
        if self._process != os.getpid():
            self._forget()

    def _start(self, group: int) -> int:
        return int(self.ends[group - 1]) if group else 0

    def _column(self, group: int) -> Any:
        """A group's images, from those that were read last."""
        self._begin()
        if group not in self._kept:
            self._kept[group] = self._read(group)
        self._kept.move_to_end(group)
        while len(self._kept) > 2 * self.window:  # a batch may lie in two windows
            self._kept.popitem(last=False)
        return self._kept[group]

    def _read(self, group: int) -> Any:
        number, own = int(self.file[group]), int(self.group[group])
        file = self.files[number]

        def read() -> Any:
            return self._opened(number).read_row_group(own, columns=[self.image], use_threads=False)

        try:
            return self.place.group(f"{file}:{own}", read).column(self.image)
        except (SteppeError, MemoryError):
            raise
        except Exception as error:  # of what serves the place, which has its own kinds
            raise SteppeError(
                "a row group of a parquet file must be readable",
                got=f"group {own} of {file} ({type(error).__name__}: {str(error)[:200]})",
            ) from error

    def _opened(self, number: int) -> Any:
        self._begin()
        if number not in self._open:
            self._open[number] = parquet_file(self.place, self.files[number])
        self._open.move_to_end(number)
        while len(self._open) > OPEN:
            with suppress(OSError):
                self._open.popitem(last=False)[1].close(force=True)
        return self._open[number]

    def _cell(self, value: Any, row: int) -> bytes:
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise SteppeError(
                f"column {self.image} must hold encoded images (a struct with bytes, or binary)",
                got=f"{type(data).__name__} in {self.describe(row)}",
                way_out="save the dataset with its images embedded",
            )
        return data
