"""Where a text may be cut so that the tokens of its pieces are the tokens of the whole."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PIECE = 1 << 14
"""Letters between two cuts, about."""

_LETTER = r"[^\W\d_]"
_BETWEEN_WORDS = re.compile(f"(?<={_LETTER}) (?={_LETTER})")
_SPACES = " \u2581\u0120"
"""A space as tokenizers write it: itself, and the signs of SentencePiece and of byte-level BPE."""
_LOCAL_NORMALIZERS = {
    *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer"),
    *("Replace", "Prepend", "ByteLevel"),
}
_LOCAL_SPLITS = {
    *("ByteLevel", "Split", "Metaspace", "Whitespace", "WhitespaceSplit", "BertPreTokenizer"),
    *("Punctuation", "Digits"),
}
_WORDS = ("the", "a", "Word", "it's", "x2y", "\u0434\u043e\u043c", "\u03bb\u03b3", "\u00e9t\u00e9")


@dataclass(frozen=True)
class Seam:
    """How one tokenizer's texts are cut: at a space between two letters of an alphabet with cases.

    What stands there is a boundary of every common way to split words. Why it is exact:

    - normalisers of the tokenizer change letters one by one there, or the beginning of a text;
    - its rules for words read from left to right and look no further back than the word, so what
      comes after a boundary is split as if the text began there;
    - each word is tokenised by itself; or, where a tokenizer has no words, no token of its
      vocabulary reaches over the space (SentencePiece), so no merge of BPE does;
    - no token that was added to the vocabulary lies beside the cut.

    Args:
        before: special tokens that the tokenizer puts before a text.
        after: those after it.
        keeps_space: whether the piece after a cut is given with its space; not where the tokenizer
            itself puts one before a text.
        marks: matches tokens that were added to the vocabulary; None if there are none.
        reach: letters of the longest of them.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    keeps_space: bool
    marks: re.Pattern[str] | None
    reach: int

    def places(self, text: str) -> Iterator[int]:
        """Cuts of a stretch of text, about a piece apart, in order; none near its ends."""
        start, end = 0, len(text) - self.reach - 1
        while start + PIECE < end:
            place = self._last(text, max(start, self.reach) + 1, start + PIECE)
            start = place or start + PIECE
            if place is not None:
                yield place

    def _last(self, text: str, low: int, high: int) -> int | None:
        """The last cut of a range, looked for in its last letters first."""
        for begin in (max(low, high - 512), low):
            for found in reversed([x.start() for x in _BETWEEN_WORDS.finditer(text, begin, high)]):
                if _cased(text[found - 1]) and _cased(text[found + 1]) and self._free(text, found):
                    return found
        return None

    def _free(self, text: str, place: int) -> bool:
        near = text[place - self.reach : place + self.reach + 1]
        return self.marks is None or self.marks.search(near) is None


def seam_of(tokenizer: Any) -> Seam | None:
    """How a tokenizer's texts may be cut.

    Args:
        tokenizer: of transformers.

    Returns:
        The seam; None where it is not certain that pieces have the same tokens: a tokenizer that is
        no fast one, or one that looks at a text as a whole.

    Example:
        >>> seam_of(lambda text, **_: {"input_ids": [ord(c) for c in text]}) is None
        True
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    state = json.loads(backend.to_str())
    normal, split, model = state["normalizer"], state["pre_tokenizer"], state["model"]
    if model.get("dropout") or not all(_normalizes_locally(x) for x in _steps(normal)):
        return None
    if not all(_splits_locally(x) for x in _steps(split)):
        return None
    words = backend.pre_tokenizer is not None and all(
        end <= len(one) or start >= len(one)
        for one, other in itertools.product(_WORDS, repeat=2)
        for _, (start, end) in backend.pre_tokenizer.pre_tokenize_str(f"{one} {other}")
    )
    if not words and not _none_reaches_over_a_space(model):
        return None
    for keeps_space in (True, False):
        if all(
            _same_in_pieces(tokenizer, one, other, keeps_space)
            for one, other in itertools.product(_WORDS, repeat=2)
        ):
            return _seam(tokenizer, keeps_space, [x["content"] for x in state["added_tokens"]])
    return None


def _seam(tokenizer: Any, keeps_space: bool, added: list[str]) -> Seam | None:
    plain, special = _ids(tokenizer, "the a", False), _ids(tokenizer, "the a", True)
    for first in range(len(special) - len(plain) + 1):
        if special[first : first + len(plain)] == plain:
            before, after = special[:first], special[first + len(plain) :]
            marks = re.compile("|".join(map(re.escape, added)), re.IGNORECASE) if added else None
            reach = max(map(len, added), default=0) + 1
            return Seam(tuple(before), tuple(after), keeps_space, marks, reach)
    return None


def _cased(letter: str) -> bool:
    return letter.isalpha() and (letter.islower() or letter.isupper())


def _steps(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A normaliser or splitter and, of a sequence, those inside of it."""
    if part is None:
        return []
    inside = part.get("normalizers") or part.get("pretokenizers") or []
    return [x for one in inside for x in _steps(one)] if part["type"] == "Sequence" else [part]


def _normalizes_locally(step: dict[str, Any]) -> bool:
    if step["type"] == "Replace":  # by one letter, so that it does not reach over a space
        return len(step["pattern"].get("String", "  ")) == 1
    return step["type"] in _LOCAL_NORMALIZERS


def _splits_locally(step: dict[str, Any]) -> bool:
    """Whether a splitter knows no more of what lies before a word than that it begins."""
    if step["type"] not in _LOCAL_SPLITS:
        return False
    expression = step.get("pattern", {}).get("Regex", "") if step["type"] == "Split" else ""
    rest = re.sub(r"\[(?:\\.|[^\]\\])*\]", "", expression.replace(r"(?!\S)", ""))
    looks_around = r"\(\?<|\(\?=|\(\?!|\^|\$|\\[bBAzZGK\d]"
    return re.search(looks_around, rest) is None


def _none_reaches_over_a_space(model: dict[str, Any]) -> bool:
    if model["type"] != "BPE":
        return False
    over = re.compile("|".join(f"[^{sign}]{sign}" for sign in _SPACES))
    return not any(over.search(token) for token in model["vocab"])


def _same_in_pieces(tokenizer: Any, one: str, other: str, keeps_space: bool) -> bool:
    whole = _ids(tokenizer, f"{one} {other} {one}", False)
    rest = f"{other} {one}"
    pieces = _ids(tokenizer, one, False) + _ids(tokenizer, " " * keeps_space + rest, False)
    return whole == pieces


def _ids(tokenizer: Any, text: str, special: bool) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
