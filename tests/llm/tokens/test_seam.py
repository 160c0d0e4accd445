"""Tokens of pieces are tokens of the whole, or the text is not cut."""

from __future__ import annotations

import random

import pytest

from steppe.llm.tokens import seam as module
from steppe.llm.tokens.encoding import encoded, pieces
from steppe.llm.tokens.seam import seam_of
from tokenizer_kinds import CUT, WHOLE, fast, page


@pytest.mark.parametrize("make", CUT)
def test_tokens_of_the_pieces_are_those_of_the_whole(
    make: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", 40)
    tokenizer = fast(make(), begins=True)  # type: ignore[operator]
    seam = seam_of(tokenizer)
    assert seam is not None
    assert (seam.before, seam.after) == ((tokenizer.bos_token_id,), ())
    draw = random.Random(1)
    for seed in range(20):
        text = page(2000, seed)
        cuts = sorted(draw.sample(range(2000), 3))
        blocks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, 2000], strict=True)]
        parts = list(pieces(blocks, seam))
        assert "".join(part.text for part in parts) == text
        assert len(parts) > 5
        ids = [i for row in encoded(tokenizer, seam, parts) for i in row]
        assert ids == tokenizer(text, verbose=False)["input_ids"]


@pytest.mark.parametrize("make", WHOLE)
def test_what_looks_at_the_whole_is_not_cut(make: object) -> None:
    assert seam_of(fast(make())) is None  # type: ignore[operator]


def test_dropout_is_not_cut() -> None:
    tokenizer = CUT[0]()
    tokenizer.model.dropout = 0.1
    assert seam_of(fast(tokenizer)) is None


def test_a_text_without_words_is_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 40)
    seam = seam_of(fast(CUT[0]()))
    parts = list(pieces(["\u4f60\u597d" * 500, "\n1 2 3" * 200], seam))
    assert [(part.first, part.last) for part in parts] == [(True, True)]


def test_the_small_llama_and_its_text(shared: object) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "tiny-llama")  # type: ignore[operator]
    text = (shared / "data" / "wikitext2" / "validation.txt").read_text()[:300_000]  # type: ignore[operator]
    seam = seam_of(tokenizer)
    parts = list(pieces([text[:100_000], text[100_000:]], seam))
    assert len(parts) > 15
    ids = [i for row in encoded(tokenizer, seam, parts) for i in row]
    assert ids == tokenizer(text, verbose=False)["input_ids"]
