"""Pieces of documents, and calls of many pieces."""

from __future__ import annotations

from typing import Any

import pytest

from steppe.core.errors import SteppeError
from steppe.llm.tokens import seam as module
from steppe.llm.tokens.encoding import encoded, ids_of, pieces, together
from steppe.llm.tokens.seam import seam_of
from tokenizer_kinds import fast, gpt2, page


def test_a_document_goes_on_at_any_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 40)
    tokenizer = fast(gpt2(), begins=True)
    seam = seam_of(tokenizer)
    text = page(1500)
    blocks = [text[:400], text[400:401], text[401:]]
    whole = list(pieces(blocks, seam, document=3))
    expected = tokenizer(text)["input_ids"]
    for done, piece in enumerate(whole[:-1], 1):
        assert piece.after == (3, len("".join(x.text for x in whole[:done])))
        rest = list(pieces(blocks, seam, document=3, skip=piece.end))
        ids = encoded(tokenizer, seam, [*whole[:done], *rest])
        assert [i for row in ids for i in row] == expected
    assert whole[-1].after == (4, 0)


def test_a_text_of_many_lines_is_cut_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 40)
    tokenizer = fast(gpt2())
    seam, text = seam_of(tokenizer), page(1500)
    parts = list(pieces([text[i : i + 7] for i in range(0, 1500, 7)], seam))
    assert len(parts) > 5
    ids = [i for row in encoded(tokenizer, seam, parts) for i in row]
    assert ids == tokenizer(text)["input_ids"]


def test_calls_hold_so_many_letters() -> None:
    parts = [p for n in (3, 3, 9, 1, 1) for p in pieces(["x" * n], None)]
    sizes = [[len(p.text) for p in some] for some in together(parts, 5)]
    assert sizes == [[3, 3], [9], [1, 1]]
    assert list(together([], 5)) == []


def test_a_tokenizer_that_fails_is_one_line() -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("two\nlines")

    with pytest.raises(SteppeError, match="two lines") as raised:
        ids_of(broken, "text")
    assert "\n" not in str(raised.value)
