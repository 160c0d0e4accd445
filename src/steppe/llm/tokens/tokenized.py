"""A text's tokens: made once, a piece at a time, and kept by the content of text and tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steppe.core.errors import SteppeError
from steppe.core.serialization import sweep
from steppe.engine.progress import advanced
from steppe.llm.kept import made, one_at_a_time
from steppe.llm.text import Corpus, read
from steppe.llm.tokens import store
from steppe.llm.tokens.digest import MEGABYTE, of_files, of_tokenizer
from steppe.llm.tokens.encoding import Piece, encoded, pieces, together
from steppe.llm.tokens.seam import Seam, seam_of
from steppe.llm.tokens.store import TokenStore

RULE = 1
"""Of how a text becomes tokens; a larger one makes all that is kept unused."""
_WIDE = 1 << 16


@dataclass(frozen=True)
class Tokenized:
    """The tokens of a source.

    Args:
        store: of them.
        description: plain data for a record: ``source``, ``sha256`` of the files (None for a
            stream), ``tokenizer`` (its hash), ``tokens``.
    """

    store: TokenStore
    description: dict[str, Any]

    @property
    def streamed(self) -> bool:
        """Whether no content is known that it is the tokens of: they are those that were read."""
        return self.description["sha256"] is None


def tokenized(
    source: str | Path, tokenizer: Any, *, at_least: int | None = None, beside: Path | None = None
) -> Tokenized:
    """The tokens of a whole text, from the cache if they were made before.

    One long text is tokenised as one. Documents (of ``.jsonl``, ``.parquet``, a dataset) are
    tokenised each by itself, special tokens included; the tokenizer's end-of-sequence token stands
    after each, if it has one. Documents of nothing but spaces are left out.

    Files are hashed, and tokenised when no tokens of these contents and this tokenizer are kept; a
    kill costs the last shard. A stream has no content to be known by: it is kept by its name, and
    read on when more is asked for.

    Args:
        source: see `steppe.llm.text.read`.
        tokenizer: of transformers.
        at_least: tokens after which a stream is read no further.
        beside: the run's folder, where tokens are kept if the cache cannot be written.

    Returns:
        The tokens and their description.

    Raises:
        SteppeError: the source cannot be read, is a stream and nothing says how much of it is
            asked for, or changed while it was read.
    """
    corpus = read(source, "train")
    if not corpus.files and at_least is None:
        raise SteppeError(
            "of a streamed dataset one must say how many tokens are asked for",
            got=str(source),
            way_out="--tokens 50M",
        )
    content = of_files(corpus.files, corpus.source) if corpus.files else None
    by = of_tokenizer(tokenizer)
    named = content or corpus.source
    key = hashlib.sha256(f"{RULE} {named} {corpus.field} {by}".encode()).hexdigest()[:32]
    folder = made("tokens", key, beside)
    with one_at_a_time(folder):
        sweep(folder)
        tokens = TokenStore(folder, _dtype(tokenizer))
        wanted = None if corpus.files else at_least
        if not tokens.index.complete and (wanted is None or len(tokens) < wanted):
            _Making(corpus, tokenizer, tokens, wanted, content).run()
    described = {"source": str(source), "sha256": content, "tokenizer": by, "tokens": len(tokens)}
    return Tokenized(tokens, described)


def _dtype(tokenizer: Any) -> str:
    return "uint16" if len(tokenizer) <= _WIDE else "uint32"


class _Making:
    """The way from a text to shards, from where it was left.

    Args:
        corpus: the text.
        tokenizer: of transformers.
        tokens: where they go.
        wanted: tokens after which it ends; None for all.
        content: the hash of the files before; None for a stream.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Any,
        tokens: TokenStore,
        wanted: int | None,
        content: str | None,
    ) -> None:
        self.corpus, self.tokenizer, self.tokens = corpus, tokenizer, tokens
        self.wanted, self.content = wanted, content
        self.seam: Seam | None = seam_of(tokenizer)
        ends = tokenizer.eos_token_id
        self.end = [] if corpus.long or ends is None else [int(ends)]
        self.read = tokens.index.read
        documents = corpus.documents
        self.documents = len(documents) if isinstance(documents, Sequence) else 0
        self.size = sum(file.stat().st_size for file in corpus.files)
        self.dates = self._dates()

    def run(self) -> None:
        """Write shards until the text ends, or is long enough."""
        advanced(self._title, self.read // MEGABYTE, self.read // MEGABYTE + 1, "MB")
        held: list[NDArray[np.int64]] = []
        size, begin = 0, (self.tokens.index.document, self.tokens.index.letters)
        for some in together(self._pieces()):
            rows = encoded(self.tokenizer, self.seam, some)
            for piece, ids in zip(some, rows, strict=True):
                ended = not piece.last or ids[-1:] == self.end
                held.append(np.array(ids if ended else ids + self.end, np.int64))
                size += len(held[-1])
                self.read += len(piece.text.encode())
            begin = some[-1].after
            enough = self.wanted is not None and len(self.tokens) + size >= self.wanted
            self._tell(begin[0], len(self.tokens) + size)
            if size >= store.SHARD or enough:
                self._write(held, begin)
                held, size = [], 0
            if enough:
                return
        self._write(held, begin, complete=True)
        advanced(self._title, 1, 1, "MB")

    def _write(
        self, held: list[NDArray[np.int64]], at: tuple[int, int], *, complete: bool = False
    ) -> None:
        self._check_unchanged(complete)
        ids = np.concatenate(held) if held else np.empty(0, np.int64)
        self.tokens.add(ids, document=at[0], letters=at[1], read=self.read, complete=complete)

    def _pieces(self) -> Iterator[Piece]:
        document, skip = self.tokens.index.document, self.tokens.index.letters
        for number, blocks in enumerate(islice(self.corpus.texts(), document, None), document):
            if self.corpus.long or any(block.strip() for block in blocks):
                yield from pieces(blocks, self.seam, document=number, skip=skip)
            skip = 0

    @property
    def _title(self) -> str:
        return f"tokenising {self.corpus.source}"

    def _tell(self, documents: int, tokens: int) -> None:
        """How far it is, in megabytes of text; how many there are is known of one text only."""
        if self.wanted is not None:
            share = min(tokens / self.wanted, 1.0)
        elif self.corpus.long:
            share = self.read / self.size
        else:
            share = documents / self.documents
        of = self.read / min(max(share, 1e-9), 1.0)
        advanced(self._title, self.read // MEGABYTE, int(of) // MEGABYTE + 1, "MB")

    def _dates(self) -> list[tuple[int, int]]:
        found = [file.stat() for file in self.corpus.files]
        return [(one.st_size, one.st_mtime_ns) for one in found]

    def _check_unchanged(self, complete: bool) -> None:
        """By its date before each shard, so that no shard holds another text; by content at last.

        Raises:
            SteppeError: the text is another one now; no token of it is kept.
        """
        if self.content is None or (not complete and self._dates() == self.dates):
            return
        if of_files(self.corpus.files) != self.content:
            self.tokens.clear()
            raise SteppeError(
                "a text must stay as it is while it is read",
                got=f"{self.corpus.source}, which changed meanwhile",
                consequence="its tokens would be of no text",
                way_out="start again when it is whole",
            )
