"""Text from a file, a folder or the hub, and its tokens."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require

JSON_ENDINGS = (".jsonl", ".jsonl.gz", ".json.gz")
ENDINGS = (".txt", ".parquet", *JSON_ENDINGS)
SHUFFLE_BUFFER = 10_000
"""Documents of a stream that are held while its order is drawn."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What was found under a source: one long text, or documents.

    Args:
        source: as the user named it.
        documents: the texts, in order; may be read again.
        separator: what stands between them when they are joined.
        long: whether they are parts of one text, so that a window may span several.
        shuffled: the documents in an order drawn from a seed.
        windows: how many windows of the joined text are measured at most; None for all.
    """

    source: str
    documents: Iterable[str]
    separator: str
    long: bool
    shuffled: Callable[[int], Iterator[str]]
    windows: int | None = None

    def joined(self) -> str:
        """All documents as one text."""
        return self.separator.join(self.documents)


@dataclass(frozen=True)
class _Named:
    """A dataset that papers know by a short name, and how they read it."""

    name: str
    config: str | None
    files: dict[str, str] | None  # part -> the one file that is read
    separators: dict[str, str]
    long: bool
    splits: dict[str, str]
    head: int | None = None  # documents that are read for measuring
    windows: int | None = None


# As SparseGPT's and Wanda's loaders read them: training text joined by a space and test text by an
# empty line; of C4 the first shard, measured on 256 windows of its first 1100 documents.
SHORT = {
    "wikitext2": _Named(
        "Salesforce/wikitext",
        "wikitext-2-raw-v1",
        None,
        {"train": " ", "test": "\n\n"},
        True,
        {"train": "train", "test": "test"},
    ),
    "c4": _Named(
        "allenai/c4",
        None,
        {
            "train": "en/c4-train.00000-of-01024.json.gz",
            "validation": "en/c4-validation.00000-of-00008.json.gz",
        },
        {"train": " ", "test": " "},
        False,
        {"train": "train", "test": "validation"},
        head=1100,
        windows=256,
    ),
}


def read(source: str | Path, part: str = "train") -> Corpus:
    """The text under a source.

    Args:
        source: a file (``.jsonl`` and ``.parquet`` by their field ``text``, or ``FILE:field``;
            any other is read as one text), a folder of ``.txt``, ``.jsonl`` and ``.parquet``
            files, or a dataset: ``wikitext2``, ``c4``, ``owner/name[:config[:split[:field]]]``.
        part: ``train`` to calibrate, ``test`` to measure; the split where the source names none.

    Returns:
        The corpus. Datasets of the hub are streamed: only what is used is downloaded.

    Raises:
        SteppeError: it is missing, empty, not UTF-8, not what its ending says, or not on the hub.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> _ = path.write_text("to be or not to be")
        >>> read(path).joined()
        'to be or not to be'
    """
    name = str(source)
    path, field = Path(name), "text"
    if not path.exists() and name.removesuffix(":").rpartition(":")[0].endswith(ENDINGS):
        front, _, field = name.rpartition(":")
        path = Path(front)
    if path.is_dir():
        return _folder(path)
    if path.exists() or isinstance(source, Path) or _looks_like_a_path(name):
        return _local(name, [path], field)
    return _hub(name, part)


def tokenize(tokenizer: Any, text: str) -> Tensor:
    """The tokens of a text, as the tokenizer gives them, special ones included.

    The text is tokenised whole: in pieces, the tokens at the seams could differ.

    Args:
        tokenizer: of transformers; called with the text.
        text: any length.

    Returns:
        Token ids, int64, shape [tokens].
    """
    ids = tokenizer(text, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.int64)


def too_short(source: str, tokens: int, window: int, least: int) -> SteppeError:
    """The error for a text that holds no window.

    Args:
        source: as the user named it.
        tokens: how many the text has.
        window: how many were asked for.
        least: tokens that a text must have beyond its window.
    """
    fits = tokens - least
    return SteppeError(
        f"the text must be longer than the window of {window} tokens",
        got=f"{tokens} tokens in {source}",
        way_out=f"--window {fits}, or a longer text" if fits >= 2 else "a longer text",
    )


def _looks_like_a_path(name: str) -> bool:
    short = name.split(":")[0]
    wild = name.startswith((".", "/", "~")) or short.endswith((*ENDINGS, ".md", ".raw"))
    return wild or "\\" in name or short.count("/") > 1


def _documents(texts: list[str], source: str, *, long: bool) -> Corpus:
    def shuffled(seed: int) -> Iterator[str]:
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        return (texts[i] for i in order)

    return Corpus(source=source, documents=texts, separator="\n\n", long=long, shuffled=shuffled)


def _folder(path: Path) -> Corpus:
    files = sorted(p for p in path.iterdir() if p.is_file() and p.name.endswith(ENDINGS))
    if not files:
        raise SteppeError(
            f"a folder of text must hold files that end with {', '.join(ENDINGS)}",
            got=str(path),
            way_out="name a file, or a folder with such files in it (none below it are read)",
        )
    return _local(str(path), files, "text")


def _local(source: str, files: list[Path], field: str) -> Corpus:
    texts: list[str] = []
    long = True
    for file in files:
        if file.name.endswith(JSON_ENDINGS):
            texts += _jsonl(file, field)
        elif file.suffix == ".parquet":
            texts += _parquet(file, field)
        else:
            texts.append(_decoded(file))
            continue
        long = False
    if not any(text.strip() for text in texts):
        raise SteppeError("a text must not be empty", got=source, way_out="name another file")
    return _documents(texts, source, long=long)


def _decoded(file: Path) -> str:
    try:
        data = file.read_bytes()
        if file.suffix == ".gz":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise SteppeError(
            "a text file must be UTF-8",
            got=f"{file}: byte {error.start} is {data[error.start]:#04x}",
            way_out="iconv -f ITS_ENCODING -t UTF-8, or name a .jsonl or .parquet file",
        ) from None
    except (OSError, EOFError) as error:
        raise SteppeError(
            "a text must be a readable file, a folder of such, or a dataset's id",
            got=f"{file} ({getattr(error, 'strerror', None) or error})",
            way_out="check the path",
        ) from None


def _jsonl(file: Path, field: str) -> list[str]:
    texts = []
    for number, line in enumerate(_decoded(file).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise SteppeError(
                "each line of a .jsonl file must be a JSON object",
                got=f"{file}, line {number}: {error.msg}",
                way_out="write one object a line",
            ) from None
        row = row if isinstance(row, dict) else {}
        texts.append(_field(row, field, f"{file}, line {number}"))
    return texts


def _field(row: dict[str, Any], field: str, place: str) -> str:
    if isinstance(row.get(field), str):
        return str(row[field])
    known = [key for key, value in row.items() if isinstance(value, str)]
    raise SteppeError(
        f"each document must have a text field {field!r}",
        got=f"{', '.join(map(str, row)) or 'none'} in {place}",
        way_out=f"name the field after a colon, e.g. :{known[0]}" if known else "add the field",
    )


def _parquet(file: Path, field: str) -> list[str]:
    parquet = require("pyarrow.parquet", install="pyarrow", purpose="reading parquet")
    arrow = require("pyarrow", install="pyarrow", purpose="reading parquet")
    try:
        schema = parquet.read_schema(file)
        if field not in schema.names:
            fields = {n: "" if "string" in str(schema.field(n).type) else 0 for n in schema.names}
            _field(fields, field, str(file))
        column = parquet.read_table(file, columns=[field]).column(field)
    except (OSError, arrow.ArrowInvalid) as error:
        raise SteppeError(
            "a .parquet file must be readable",
            got=f"{file} ({str(error).splitlines()[0]})",
            way_out="check the path, write the file anew",
        ) from None
    values: list[str] = column.to_pylist()
    for number, value in enumerate(values):
        if not isinstance(value, str):
            _field({field: value}, field, f"{file}, row {number}")
    return values


def _hub(source: str, part: str) -> Corpus:
    name, config, split, field = [*source.split(":", 3), "", "", ""][:4]
    named = SHORT.get(name) or _Named(
        name, None, None, {"train": "\n\n", "test": "\n\n"}, False, {"train": "train"}
    )
    split = split or named.splits.get(part, part)
    datasets = require("datasets", install="'steppe[llm]'", purpose="reading a dataset of the hub")

    def refuse(error: Exception) -> SteppeError:
        return SteppeError(
            "a text must be a file, a folder, or a dataset that the hub knows",
            got=f"{source!r} ({type(error).__name__}: {str(error)[:200]})",
            consequence="it is no file here and could not be read from the hub",
            way_out="check the spelling, the split and the network, or give a text file",
        )

    options = {"data_files": named.files} if named.files else {}
    try:
        table = datasets.load_dataset(
            named.name, config or named.config, split=split, streaming=True, **options
        )
    except Exception as error:  # no network, no such id or split: many kinds, one answer
        raise refuse(error) from error

    def rows(stream: Iterable[Any]) -> Iterator[str]:
        try:
            for number, row in enumerate(stream):
                yield _field(row, field or "text", f"{source}, row {number}")
        except SteppeError:
            raise
        except Exception as error:  # a stream meets the network while it is read
            raise refuse(error) from error

    def shuffled(seed: int) -> Iterator[str]:
        return rows(table.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER))

    head = None if part == "train" else named.head
    return Corpus(
        source=source,
        documents=_Again(lambda: islice(rows(table), head)),
        separator=named.separators[part],
        long=named.long,
        shuffled=shuffled,
        windows=None if part == "train" else named.windows,
    )


@dataclass(frozen=True)
class _Again:
    """An iterable that starts anew each time."""

    start: Callable[[], Iterator[str]]

    def __iter__(self) -> Iterator[str]:
        return self.start()
