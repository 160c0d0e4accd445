"""Texts in files: small ones are read whole, of large ones only what is used."""

from __future__ import annotations

import array
import bisect
import codecs
import contextlib
import gzip
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, overload

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require

LARGE = 2 << 20
"""Bytes of a file, or characters of a text, up to which it is read, checked and tokenised whole."""


WHOLE_COLUMN = 1 << 30
"""Bytes of a parquet file's texts, unpacked, up to which they are read at once."""


BLOCK = 1 << 20
"""Bytes of a long text that are at hand at once."""


class Texts(Sequence[str]):
    """Texts that are read when they are asked for."""

    def __len__(self) -> int:
        raise NotImplementedError

    def text(self, index: int) -> str:
        """One of them."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self.text(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.text(index % len(self))


class Chained(Texts):
    """The texts of several sources, one after the other."""

    def __init__(self, parts: Sequence[Sequence[str]]) -> None:
        self._parts = parts
        self._ends = list(itertools.accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def text(self, index: int) -> str:
        part = bisect.bisect_right(self._ends, index)
        return self._parts[part][index - (self._ends[part - 1] if part else 0)]


class TextFile(Texts):
    """A file that is one text."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __len__(self) -> int:
        return 1

    def text(self, index: int) -> str:
        return decoded(self._file)


class JsonLines(Texts):
    """The documents of a large ``.jsonl`` file, by where their lines begin."""

    def __init__(self, file: Path, field: str) -> None:
        self._file, self._field = file, field
        with readable(file):
            self._open = _unpacked(file)
            self._starts, self._numbers = array.array("Q"), array.array("Q")
            start = 0
            for number, line in enumerate(self._open, 1):
                if line.strip():
                    self._starts.append(start)
                    self._numbers.append(number)
                start += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    def text(self, index: int) -> str:
        with readable(self._file):
            self._open.seek(self._starts[index])
            line = self._open.readline()
        place = f"{self._file}, line {self._numbers[index]}"
        try:
            text = line.decode("utf-8-sig" if self._starts[index] == 0 else "utf-8")
        except UnicodeDecodeError as error:
            raise _no_utf8(place, error.start, line[error.start]) from None
        return parsed(text, self._field, place)


class ParquetRows(Texts):
    """One column of a large ``.parquet`` file: whole up to 1 GiB, else a group of rows at a time.

    Rows are asked for in shuffled order: with few groups at hand, each would be read many times.
    """

    def __init__(self, file: Path, field: str) -> None:
        self._name, self._field = file, field
        with parquet_file(file, field) as opened:
            self._file = opened
        groups = [opened.metadata.row_group(i) for i in range(opened.num_row_groups)]
        self._ends = list(itertools.accumulate(group.num_rows for group in groups))
        self._group: tuple[int, Any] = (-1, None)
        columns = (group.column(i) for group in groups for i in range(group.num_columns))
        size = sum(x.total_uncompressed_size for x in columns if x.path_in_schema == field)
        self._whole: Any = None
        self._fits = size <= WHOLE_COLUMN

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def text(self, index: int) -> str:
        if self._fits:
            if self._whole is None:
                self._whole = self._file.read(columns=[self._field]).column(self._field)
            value = self._whole[index].as_py()
        else:
            value = self._in_its_group(index)
        return text_of({self._field: value}, self._field, f"{self._name}, row {index}")

    def _in_its_group(self, index: int) -> Any:
        group = bisect.bisect_right(self._ends, index)
        if group != self._group[0]:
            column = self._file.read_row_group(group, columns=[self._field]).column(self._field)
            self._group = (group, column)
        return self._group[1][index - (self._ends[group - 1] if group else 0)].as_py()


class TableRows(Texts):
    """One column of a table that the library datasets saved."""

    def __init__(self, table: Any, field: str, source: str) -> None:
        self._table, self._field, self._source = table, field, source

    def __len__(self) -> int:
        return len(self._table)

    def text(self, index: int) -> str:
        return text_of(dict(self._table[index]), self._field, f"{self._source}, row {index}")


class Places:
    """A long text, read at any place of it: files with a separator between them, or letters.

    Args:
        parts: the files, or the text itself.
        separator: what stands between two parts.
    """

    def __init__(self, parts: Sequence[Path] | str, separator: str = "") -> None:
        self._text = parts if isinstance(parts, str) else None
        self._parts: list[Path | bytes] = []
        for file in () if isinstance(parts, str) else parts:
            self._parts += [*([separator.encode()] if self._parts else []), file]
        sizes = [len(p) if isinstance(p, bytes) else p.stat().st_size for p in self._parts]
        self._ends = list(itertools.accumulate(sizes))
        self.size = self._ends[-1] if self._ends else len(self._text or "")

    def read(self, start: int, length: int) -> str:
        """Some of the text; bytes of a letter that was cut at an end are left out.

        Args:
            start: of the first byte of files, or of the first letter of a text.
            length: in the same unit.
        """
        if self._text is not None:
            return self._text[start : start + length]
        data, position = bytearray(), start
        while len(data) < length and position < self.size:
            number = bisect.bisect_right(self._ends, position)
            part, before = self._parts[number], self._ends[number - 1] if number else 0
            wanted = min(length - len(data), self._ends[number] - position)
            some = _some(part, position - before, wanted)
            data += some
            position += len(some)
            if len(some) < wanted:
                break
        first = 0
        while start and first < min(3, len(data)) and data[first] & 0xC0 == 0x80:
            first += 1
        decoder = codecs.getincrementaldecoder("utf-8-sig" if start == 0 else "utf-8")()
        try:
            return decoder.decode(bytes(data[first:])).replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            place = first + error.start
            number = bisect.bisect_right(self._ends, start + place)
            before = self._ends[number - 1] if number else 0
            raise _no_utf8(str(self._parts[number]), start + place - before, data[place]) from None

    def blank(self) -> bool:
        """Whether nothing stands there but spaces."""
        return not any(self.read(i, LARGE).strip() for i in range(0, self.size, LARGE))


def _some(part: Path | bytes, start: int, length: int) -> bytes:
    if isinstance(part, bytes):
        return part[start : start + length]
    with readable(part), open(part, "rb") as file:
        file.seek(start)
        return file.read(length)


@contextlib.contextmanager
def readable(file: Path) -> Iterator[None]:
    """What goes wrong with a file while it is read is said in one line."""
    try:
        yield
    except (OSError, EOFError) as error:
        raise SteppeError(
            "a text must be a readable file, a folder of such, or a dataset's id",
            got=f"{file} ({getattr(error, 'strerror', None) or error})",
            way_out="check the path",
        ) from None


def _unpacked(file: Path) -> IO[bytes]:
    if file.suffix != ".gz":
        return open(file, "rb")
    # places in it are found again, those in a packed file are not
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115  open as long as its texts are used
    with gzip.open(file) as packed:
        shutil.copyfileobj(packed, unpacked)
    unpacked.seek(0)
    return unpacked


def _no_utf8(place: str, position: int, byte: int) -> SteppeError:
    return SteppeError(
        "a text file must be UTF-8",
        got=f"{place}: byte {position} is {byte:#04x}",
        way_out="iconv -f ITS_ENCODING -t UTF-8, or name a .jsonl or .parquet file",
    )


def decoded(file: Path) -> str:
    """A file's text.

    Raises:
        SteppeError: it cannot be read, or is not UTF-8.
    """
    with readable(file):
        data = file.read_bytes()
        if file.suffix == ".gz":
            data = gzip.decompress(data)
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise _no_utf8(str(file), error.start, data[error.start]) from None


def blocks(file: Path) -> Iterator[str]:
    """A file's text, some of it at a time: together what `decoded` gives.

    Raises:
        SteppeError: it cannot be read, or is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    done, held = 0, ""
    with readable(file), gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as opened:
        while True:
            data = opened.read(BLOCK)
            pending = len(decoder.getstate()[0])
            try:
                text = held + decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                at = done - pending + error.start
                raise _no_utf8(str(file), at, error.object[error.start]) from None
            done += len(data)
            # a line's end may be cut in two
            held = "\r" * (text.endswith("\r") and bool(data))
            yield text.removesuffix(held).replace("\r\n", "\n")
            if not data:
                return


def parsed(line: str, field: str, place: str) -> str:
    """The text of a line of JSON.

    Raises:
        SteppeError: it is none, or lacks the field.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise SteppeError(
            "each line of a .jsonl file must be a JSON object",
            got=f"{place}: {error.msg}",
            way_out="write one object a line",
        ) from None
    return text_of(row if isinstance(row, dict) else {}, field, place)


def text_of(row: dict[str, Any], field: str, place: str) -> str:
    """The text of a row.

    Raises:
        SteppeError: it has no such field, or something else than text in it.
    """
    if isinstance(row.get(field), str):
        return str(row[field])
    known = [key for key, value in row.items() if isinstance(value, str)]
    raise SteppeError(
        f"each document must have a text field {field!r}",
        got=f"{', '.join(map(str, row)) or 'none'} in {place}",
        way_out=f"name the field after a colon, e.g. :{known[0]}" if known else "add the field",
    )


@contextlib.contextmanager
def parquet_file(file: Path, field: str) -> Iterator[Any]:
    """An open parquet file that has the field.

    Raises:
        SteppeError: it cannot be read, or lacks the field.
    """
    parquet = require("pyarrow.parquet", install="pyarrow", purpose="reading parquet")
    arrow = require("pyarrow", install="pyarrow", purpose="reading parquet")
    try:
        opened = parquet.ParquetFile(file)
        schema = opened.schema_arrow
        if field not in schema.names:
            fields = {n: "" if "string" in str(schema.field(n).type) else 0 for n in schema.names}
            text_of(fields, field, str(file))
        yield opened
    except (OSError, arrow.ArrowInvalid) as error:
        raise SteppeError(
            "a .parquet file must be readable",
            got=f"{file} ({str(error).splitlines()[0]})",
            way_out="check the path, write the file anew",
        ) from None
