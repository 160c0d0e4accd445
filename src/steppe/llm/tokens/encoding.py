"""Texts become tokens in pieces: the same tokens as of the whole, many pieces at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from steppe.core.errors import SteppeError
from steppe.llm.tokens import seam as seams
from steppe.llm.tokens.seam import Seam

TOGETHER = 1 << 20
"""Letters that are tokenised in one call."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a document.

    Args:
        text: of it.
        document: its number.
        end: letters of the document up to the end of this piece.
        first, last: whether the document begins, and ends, with it.
    """

    text: str
    document: int
    end: int
    first: bool
    last: bool

    @property
    def after(self) -> tuple[int, int]:
        """Where the next piece begins: the number of its document, letters of it before."""
        return (self.document + 1, 0) if self.last else (self.document, self.end)


def pieces(
    blocks: Iterable[str], seam: Seam | None, *, document: int = 0, skip: int = 0
) -> Iterator[Piece]:
    """A document in pieces; whole where there is no seam.

    Args:
        blocks: of the document, in order.
        seam: where it may be cut.
        document: its number.
        skip: letters that were tokenised before; a cut lies there.

    Example:
        >>> [x.text for x in pieces(["one ", "text"], None)]
        ['one text']
    """
    held, end, left = list[str](), skip, skip
    for block in _merged(blocks):
        if left >= len(block):
            left -= len(block)
            continue
        block, left, start = block[left:], 0, 0
        for place in seam.places(block) if seam is not None else ():
            text = "".join([*held, block[start:place]])
            yield Piece(text, document, end + len(text), end == 0, False)
            held, start, end = [], place, end + len(text)
        held.append(block[start:])
    text = "".join(held)
    yield Piece(text, document, end + len(text), end == 0, True)


def _merged(blocks: Iterable[str]) -> Iterator[str]:
    """Blocks that are not too short to be cut: of a text in many lines or files."""
    held, size = list[str](), 0
    for block in blocks:
        held.append(block)
        size += len(block)
        if size >= 8 * seams.PIECE:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)


def together(parts: Iterable[Piece], letters: int = TOGETHER) -> Iterator[list[Piece]]:
    """Pieces in lists of at least so many letters, but for the last list."""
    held, size = list[Piece](), 0
    for piece in parts:
        held.append(piece)
        size += len(piece.text)
        if size >= letters:
            yield held
            held, size = [], 0
    if held:
        yield held


def encoded(tokenizer: Any, seam: Seam | None, parts: list[Piece]) -> list[list[int]]:
    """The tokens of each piece; with the special ones at the ends of documents.

    Raises:
        SteppeError: the tokenizer fails.
    """
    if seam is None:
        return [ids_of(tokenizer, piece.text) for piece in parts]
    cut = [piece.text[not (piece.first or seam.keeps_space) :] for piece in parts]
    rows: list[list[int]] = ids_of(
        tokenizer,
        cut,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
    )
    return [
        [*(seam.before if piece.first else ()), *ids, *(seam.after if piece.last else ())]
        for piece, ids in zip(parts, rows, strict=True)
    ]


def ids_of(tokenizer: Any, texts: str | list[str], **options: Any) -> Any:
    """What a tokenizer gives for a text, or for each of several.

    Raises:
        SteppeError: it fails.
    """
    try:
        return tokenizer(texts, verbose=False, **options)["input_ids"]
    except Exception as error:  # of a value in its files, each kind in its own way
        raise SteppeError(
            "a tokenizer must turn text into tokens",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            way_out="copy tokenizer.json and tokenizer_config.json of the original again",
        ) from error
