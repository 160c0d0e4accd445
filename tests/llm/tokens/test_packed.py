"""Texts in windows: mixtures, streams, ids, what the model writes; what does not fit is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from steppe.core.errors import SteppeError
from steppe.llm.load import tokenizer_of
from steppe.llm.text import read, tokenize
from steppe.llm.tokens.batches import TokenBatches
from steppe.llm.tokens.packed import PackedText, Packing


@pytest.fixture(scope="module")
def tokenizer(language_model: Path) -> Any:
    return tokenizer_of(language_model)


def test_windows_follow_each_other(word_text: Path, tokenizer: Any) -> None:
    packed = Packing(window=32, held_out=0.2, vocabulary=26).of(word_text, tokenizer)
    tokens = tokenize(tokenizer, read(word_text).joined())
    (source,) = packed.sources
    expected = tokens[:480].view(15, 32)
    assert torch.equal(source.windows.take(range(15)), expected)
    assert torch.equal(packed.held_out(), expected[12:])
    described = packed.description["sources"][0]
    assert (described["windows"], described["held_out"], described["tokens"]) == (15, 3, 500)
    seen = torch.cat([x for x, _ in TokenBatches(text=packed, batch_size=4).epoch(0)])
    assert sorted(seen.tolist()) == sorted(expected[:12].tolist())


def test_texts_and_ids_are_mixed(word_text: Path, tokenizer: Any, tmp_path: Path) -> None:
    ids = tmp_path / "ids.safetensors"
    save_file({"tokens": torch.full((6, 16), 3)}, ids)
    packed = Packing(window=16).of([f"{word_text}=1", f"{ids}=3"], tokenizer)
    assert [source.share for source in packed.sources] == [0.25, 0.75]
    batches = TokenBatches(text=packed, batch_size=4)
    drawn = torch.cat([x for x, _ in batches.epoch(0)])
    assert len(drawn) == 8
    assert (drawn == 3).all(1).sum() == 6
    with pytest.raises(SteppeError, match=r"windows of 16 tokens.*a window of 8.*--window 16"):
        Packing(window=8).of(ids)


def test_the_model_writes_as_much_as_is_asked_for(language_model: Path, word_text: Path) -> None:
    packing = Packing(window=8, tokens=100, held_out=0.25, model=language_model)
    mixed = packing.of(f"self=0.5,{word_text}=0.5", tokenizer_of(language_model))
    written = mixed.sources[0]
    assert written.trained * 8 >= 50
    assert mixed.description["sources"][0]["temperature"] == 1.0
    given = Packing(window=8, model=language_model).of("self:0.5::4")
    assert len(given.sources[0].windows) == 4
    with pytest.raises(SteppeError, match=r"how much.*--tokens 1M"):
        Packing(window=8, model=language_model).of("self")


def test_a_stream_has_the_windows_that_were_asked_for_however_far_it_was_read(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes on sees the same windows, though more of the text is kept by now."""
    datasets = pytest.importorskip("datasets")
    rows = [{"text": " ".join("abcdefghij"[i % 10 :])} for i in range(400)]
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: iter(rows))
    few, many = (Packing(window=8, tokens=n) for n in (64, 1600))
    before = few.of("me/mine", tokenizer)
    more = many.of("me/mine", tokenizer)
    after = few.of("me/mine", tokenizer)
    assert len(more.sources[0].windows) > len(before.sources[0].windows) == 10
    assert len(after.sources[0].windows) == 10
    assert after.description == before.description
    one, other = (list(TokenBatches(text=t, batch_size=5).epoch(0)) for t in (before, after))
    assert all(torch.equal(x, y) for (x, _), (y, _) in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("packing", "said"),
    [
        (
            Packing(window=501),
            r"window of 501 tokens; got 500 tokens in .*words\.txt.*--window 500",
        ),
        (Packing(window=32, vocabulary=20), r"vocabulary, 0 to 19; got token 25.*tokenizer"),
        (Packing(window=300, held_out=0.1), r"1 windows of 300 tokens in .*1 of them held out"),
        (Packing(window=32, held_out=1.0), r"lies in \[0, 1\)"),
    ],
)
def test_what_does_not_fit(packing: Packing, said: str, word_text: Path, tokenizer: Any) -> None:
    with pytest.raises(SteppeError, match=said) as raised:
        packing.of(word_text, tokenizer)
    assert "\n" not in str(raised.value)


def test_an_empty_file(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(SteppeError, match="must not be empty"):
        Packing(window=4).of(tmp_path / "a.txt", tokenizer)


def test_windows_that_are_there() -> None:
    packed = PackedText.of_tokens(torch.arange(20).view(10, 2), held_out=0.3)
    assert packed.held_out()[:, 0].tolist() == [14, 16, 18]
    assert PackedText.of_tokens(torch.arange(4).view(2, 2)).held_out().shape == (0, 2)
