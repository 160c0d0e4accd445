"""Text from a file, a folder or the hub, and its tokens."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.hub_names import silent_retries
from steppe.core.optional_import import require
from steppe.llm.text_files import (
    LARGE,
    Chained,
    JsonLines,
    ParquetRows,
    Places,
    TableRows,
    TextFile,
    blocks,
    decoded,
    parquet_file,
    parsed,
    text_of,
)
from steppe.llm.tokens.encoding import TOGETHER, encoded, ids_of, pieces, together
from steppe.llm.tokens.seam import seam_of

JSON_ENDINGS = (".jsonl", ".jsonl.gz", ".json.gz")
ENDINGS = (".txt", ".parquet", *JSON_ENDINGS)
_SAVED = ("state.json", "dataset_dict.json")
SEPARATOR = "\n\n"
SHUFFLE_BUFFER = 10_000
_LEAST_WINDOW = 64  # tokens; a shorter one is worth an offer only where little was asked for
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
        places: the joined text, read at any place of it; where it lies in files.
        files: what it was read from; none for a stream.
        field: of the documents, in these files.
    """

    source: str
    documents: Iterable[str]
    separator: str
    long: bool
    shuffled: Callable[[int], Iterator[str]]
    windows: int | None = None
    places: Places | None = None
    files: tuple[Path, ...] = ()
    field: str = "text"

    def joined(self) -> str:
        """All documents as one text."""
        return self.separator.join(self.documents)

    def texts(self) -> Iterator[Iterable[str]]:
        """Each document, or the one long text, in blocks; of large files little is in memory."""
        if not self.long:
            yield from ([document] for document in self.documents)
            return
        parts = map(blocks, self.files) if self.files else ([text] for text in self.documents)
        yield self._with_separators(parts)

    def _with_separators(self, parts: Iterable[Iterable[str]]) -> Iterator[str]:
        for number, part in enumerate(parts):
            if number:
                yield self.separator
            yield from part


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
            files or of a saved dataset (``FOLDER:field``), or a dataset: ``wikitext2``, ``c4``,
            ``owner/name[:config[:split[:field]]]``.
        part: ``train`` to calibrate, ``test`` to measure; the split where the source names none.

    Returns:
        The corpus. Datasets of the hub are streamed: only what is used is downloaded. Of files
        larger than 2 MiB only what is used is read and checked.

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
    front = name.removesuffix(":").rpartition(":")[0]
    if not path.exists() and (front.endswith(ENDINGS) or (front and Path(front).is_dir())):
        front, _, field = name.rpartition(":")
        path = Path(front)
    if path.is_dir():
        return _folder(path, part, field)
    if path.exists() or isinstance(source, Path) or _looks_like_a_path(name):
        return _local(name, [path], field)
    return _hub(name, part)


def tokenize(tokenizer: Any, text: str, *, whole: bool = True) -> Tensor:
    """The tokens of a text, as the tokenizer gives them, special ones included.

    A long text is tokenised in pieces where it is certain that their tokens are those of the whole
    (see `steppe.llm.tokens.seam.Seam`), which takes a fraction of the memory; else whole.

    Args:
        tokenizer: of transformers; called with the text.
        text: any length.
        whole: whether it is; what is cut out of a text gets no special tokens.

    Returns:
        Token ids, int64, shape [tokens].

    Raises:
        SteppeError: the tokenizer fails.
    """
    if not whole:
        return torch.tensor(ids_of(tokenizer, text, add_special_tokens=False), dtype=torch.int64)
    seam = seam_of(tokenizer) if len(text) > TOGETHER else None
    stretches = (text[i : i + TOGETHER] for i in range(0, len(text), TOGETHER))
    rows = [
        torch.tensor(ids, dtype=torch.int64)
        for some in together(pieces(stretches, seam))
        for ids in encoded(tokenizer, seam, some)
    ]
    return torch.cat(rows)


def too_short(source: str, tokens: int, window: int, least: int) -> SteppeError:
    """The error for a text that holds no window.

    Args:
        source: as the user named it.
        tokens: how many the text has.
        window: how many were asked for.
        least: tokens that a text must have beyond its window.
    """
    return SteppeError(
        f"the text must be longer than the window of {window} tokens",
        got=f"{tokens} tokens in {source}",
        way_out=longer_or(tokens - least, window),
    )


def longer_or(fits: int, window: int) -> str:
    """The way out of a text that is too short: a window of use, if one fits, or a longer text.

    Args:
        fits: tokens that a window could have.
        window: that was asked for.

    Example:
        >>> longer_or(500, 2048), longer_or(4, 2048), longer_or(4, 16)
        ('--window 500, or a longer text', 'a longer text', '--window 4, or a longer text')
    """
    of_use = fits >= 2 and (fits >= _LEAST_WINDOW or 4 * fits >= window)
    return f"--window {fits}, or a longer text" if of_use else "a longer text"


def _looks_like_a_path(name: str) -> bool:
    short = name.split(":")[0]
    wild = name.startswith((".", "/", "~")) or short.endswith((*ENDINGS, ".md", ".raw"))
    return wild or "\\" in name or short.count("/") > 1


def _documents(texts: Sequence[str], source: str, *, long: bool, **known: Any) -> Corpus:
    def shuffled(seed: int) -> Iterator[str]:
        order = random.Random(seed).sample(range(len(texts)), len(texts))
        return (texts[i] for i in order)

    return Corpus(
        source=source,
        documents=texts,
        separator=SEPARATOR,
        long=long,
        shuffled=shuffled,
        **known,
    )


def _folder(path: Path, part: str, field: str) -> Corpus:
    if any((path / name).is_file() for name in _SAVED):
        return _saved(path, part, field)
    files = sorted(p for p in path.iterdir() if p.is_file() and p.name.endswith(ENDINGS))
    if not files:
        raise SteppeError(
            f"a folder of text must hold files that end with {', '.join(ENDINGS)}",
            got=str(path),
            way_out="name a file, or a folder with such files in it (none below it are read)",
        )
    return _local(str(path), files, field)


def _saved(path: Path, part: str, field: str) -> Corpus:
    """A dataset that save_to_disk of the library datasets wrote."""
    datasets = require("datasets", install="'steppe[llm]'", purpose="reading a saved dataset")
    try:
        table = datasets.load_from_disk(str(path))
    except Exception as error:  # what a damaged folder raises differs by what is missing
        raise SteppeError(
            "a folder with a saved dataset must be whole",
            got=f"{path} ({type(error).__name__}: {str(error)[:200]})",
            way_out="save it again",
        ) from error
    if isinstance(table, dict):
        splits = list(table)
        if part not in splits and len(splits) > 1:
            raise SteppeError(
                f"a saved dataset has a split {part!r}",
                got=f"{', '.join(splits)} in {path}",
                way_out=f"name one of its folders, {path}/{splits[0]}",
            )
        table = table[part if part in splits else splits[0]]
    files = tuple(sorted(p for p in path.rglob("*") if p.is_file()))
    rows = TableRows(table, field, str(path))
    return _documents(rows, str(path), long=False, files=files, field=field)


def _local(source: str, files: list[Path], field: str) -> Corpus:
    texts: list[Sequence[str]] = []
    long = True
    for file in files:
        large = file.is_file() and file.stat().st_size > LARGE
        if file.name.endswith(JSON_ENDINGS):
            texts.append(JsonLines(file, field) if large else _jsonl(file, field))
        elif file.suffix == ".parquet":
            texts.append(ParquetRows(file, field) if large else _parquet(file, field))
        else:
            texts.append(TextFile(file) if large else [decoded(file)])
            continue
        long = False
    # a packed file has no places
    long_and_plain = long and not any(file.suffix == ".gz" for file in files)
    places = Places(files, SEPARATOR) if long_and_plain else None
    every = Chained(texts)
    if places.blank() if places is not None else not any(text.strip() for text in every):
        raise SteppeError("a text must not be empty", got=source, way_out="name another file")
    known = {"places": places, "files": tuple(files), "field": field}
    return _documents(every, source, long=long, **known)


def _jsonl(file: Path, field: str) -> list[str]:
    lines = enumerate(decoded(file).split("\n"), 1)
    return [parsed(line, field, f"{file}, line {n}") for n, line in lines if line.strip()]


def _parquet(file: Path, field: str) -> list[str]:
    with parquet_file(file, field) as opened:
        values = opened.read(columns=[field]).column(field).to_pylist()
    return [text_of({field: v}, field, f"{file}, row {n}") for n, v in enumerate(values)]


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
        with silent_retries():
            table = datasets.load_dataset(
                named.name, config or named.config, split=split, streaming=True, **options
            )
    except Exception as error:  # no network, no such id or split: many kinds, one answer
        raise refuse(error) from error

    def rows(stream: Iterable[Any]) -> Iterator[str]:
        try:
            for number, row in enumerate(stream):
                yield text_of(row, field or "text", f"{source}, row {number}")
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
