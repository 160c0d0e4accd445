"""Perplexity: beside its definition, token by token."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.llm import perplexity as module
from steppe.llm.load import load
from steppe.llm.perplexity import perplexity, pieces, token_loss


@pytest.fixture(scope="module")
def llama(language_model: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(language_model)
    return model.eval(), AutoTokenizer.from_pretrained(language_model)


@torch.no_grad()
def one_by_one(model: Any, tokens: torch.Tensor, window: int, stride: int) -> tuple[float, int]:
    """Mean -log p of each token that counts, each from a forward pass over what is before it."""
    losses, done = [], 0
    for start in range(0, len(tokens), stride):
        end = min(start + window, len(tokens))
        if stride == window and end - start < window:
            break
        for target in range(max(start + 1, done), end):
            before = tokens[start:target][None]
            logits = model(before).logits[0, -1].double()
            losses.append(-float(logits.log_softmax(-1)[tokens[target]]))
        done = end
        if end == len(tokens):
            break
    return sum(losses) / len(losses), len(losses)


@pytest.mark.parametrize("stride", [None, 16, 5, 1])
def test_it_is_the_definition(llama: tuple[Any, Any], word_text: Path, stride: int | None) -> None:
    model, tokenizer = llama
    tokens = torch.tensor(tokenizer(word_text.read_text())["input_ids"][:75])
    loss, count = one_by_one(model, tokens, 16, stride or 16)
    got = perplexity(model, tokens, window=16, stride=stride, batch=3)
    assert got["tokens"] == count
    assert count == (60 if stride in (None, 16) else 74)
    # the logits of a whole window and of its beginnings differ by float32's rounding
    assert got["loss"] == pytest.approx(loss, abs=1e-5)
    assert got["perplexity"] == math.exp(got["loss"])
    assert (got["window"], got["stride"], got["dtype"]) == (16, stride or 16, "float32")


def test_text_and_its_tokens_give_the_same(llama: tuple[Any, Any], word_text: Path) -> None:
    model, tokenizer = llama
    tokens = torch.tensor(tokenizer(word_text.read_text())["input_ids"])
    by_text = perplexity(model, word_text, tokenizer=tokenizer, window=32)
    by_ids = perplexity(model, tokens, window=32)
    by_rows = perplexity(model, tokens[:480].view(15, 32), window=32)
    assert by_text["loss"] == by_ids["loss"] == by_rows["loss"]
    assert by_text["sha256"] == by_ids["sha256"]
    assert (by_text["windows"], by_text["source"]) == (15, str(word_text))


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_the_batch_changes_rounding_only(
    llama: tuple[Any, Any], word_text: Path, batch: int
) -> None:
    model, tokenizer = llama
    loss = perplexity(model, word_text, tokenizer=tokenizer, window=32)["loss"]
    again = perplexity(model, word_text, tokenizer=tokenizer, window=32, batch=batch)["loss"]
    assert again == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("first", [1, 4])
@pytest.mark.parametrize("at_once", [1, 40, 1 << 20])
def test_chunks_of_rows_sum_to_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, at_once: int, first: int
) -> None:
    monkeypatch.setitem(module.LOGITS_AT_ONCE, "cpu", at_once)
    hidden, tokens = torch.randn(2, 9, 6), torch.randint(0, 13, (2, 9))
    norm, out = nn.LayerNorm(6), nn.Linear(6, 13)
    seen = []

    def head(rows: torch.Tensor) -> torch.Tensor:
        seen.append(len(rows))
        return out(norm(rows))

    loss, count = token_loss(hidden, head, tokens, first=first)
    logits = out(norm(hidden))[:, first - 1 : -1]
    expected = nn.functional.cross_entropy(
        logits.flatten(0, 1).double(), tokens[:, first:].flatten(), reduction="sum"
    )
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6)
    assert count == 2 * (9 - first) == sum(seen)
    assert max(seen) <= max(at_once // 13, 1)


def test_log_likelihoods_are_in_float32_whatever_the_logits() -> None:
    logits = torch.zeros(1, 3, 70_000, dtype=torch.float16)  # exp sums above what float16 holds
    loss, _ = token_loss(logits, lambda z: z, torch.zeros(1, 3, dtype=torch.int64))
    assert loss == pytest.approx(2 * math.log(70_000), rel=1e-6)


@pytest.mark.parametrize(("tokens", "window", "stride"), [(23, 8, 3), (8, 8, 1), (30, 7, 6)])
def test_overlapping_windows_count_each_token_once(tokens: int, window: int, stride: int) -> None:
    counted: list[int] = []
    for piece, first in pieces(torch.arange(tokens), window, stride):
        assert len(piece) <= window
        counted += piece[first:].tolist()
    assert counted == list(range(1, tokens))


def test_a_model_is_left_as_it_was(llama: tuple[Any, Any], word_text: Path) -> None:
    model, tokenizer = llama
    model.train()
    model.model.layers[0].eval()
    modes = [m.training for m in model.modules()]
    before = {name: w.clone() for name, w in model.state_dict().items()}
    half = perplexity(model, word_text, tokenizer=tokenizer, window=32, dtype=torch.bfloat16)
    full = perplexity(model, word_text, tokenizer=tokenizer, window=32)
    assert half["dtype"] == "bfloat16"
    assert 0 < abs(half["loss"] / full["loss"] - 1) < 0.05
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())
    model.eval()


def test_no_cache_is_asked_for(llama: tuple[Any, Any], word_text: Path) -> None:
    model, tokenizer = llama
    seen = []
    handle = model.register_forward_hook(lambda _m, _a, out: seen.append(out.past_key_values))
    perplexity(model, word_text, tokenizer=tokenizer, window=32)
    handle.remove()
    assert seen
    assert all(cache is None for cache in seen)


def test_models_of_ones_own() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 5)

        def forward(self, x: torch.Tensor) -> Any:
            return SimpleNamespace(logits=self.table(x))

    assert perplexity(Own(), torch.arange(5), window=3)["tokens"] == 2


def test_a_loss_beyond_floats_is_infinite() -> None:
    model = nn.Embedding(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 1e4], [0.0, 1e4]]))
    assert perplexity(model, torch.zeros(4, dtype=torch.int64), window=4)["perplexity"] == math.inf


@pytest.mark.parametrize(
    ("tokens", "options", "said"),
    [
        (torch.arange(9), {"window": 1}, "two tokens"),
        (torch.arange(9), {"window": 4, "stride": 5}, "between 1 and the window"),
        (torch.arange(9), {"window": 4, "stride": 0}, "between 1 and the window"),
        (torch.arange(9), {"window": 4, "batch": 0}, "one window at least"),
        (torch.arange(9), {"window": 10}, "got 9 tokens.*--window 9"),
        (torch.arange(9), {"window": 65}, "model of 64.*--window 64"),
        (torch.arange(9).float(), {"window": 4}, r"int64.*torch\.float32"),
        (torch.zeros(2, 9, dtype=torch.int64), {"window": 4}, r"window=9"),
        (torch.full((9,), 26), {"window": 4}, "token 26.*does not fit the model"),
    ],
)
def test_what_does_not_fit(
    llama: tuple[Any, Any], tokens: torch.Tensor, options: dict[str, int], said: str
) -> None:
    with pytest.raises(SteppeError, match=said):
        perplexity(llama[0], tokens, **options)


def test_the_dense_model_has_the_official_perplexity(shared: Path) -> None:
    """37.41 on WikiText-2's test split, windows of 256: the first line of the official figures.

    All windows take a minute or two: STEPPE_SLOW=1. Otherwise every 16th, whose mean loss must
    lie within three standard errors.
    """
    folder, text = shared / "models" / "tiny-llama", shared / "data" / "wikitext2" / "test.txt"
    model, tokenizer = load(str(folder))
    if os.environ.get("STEPPE_SLOW") == "1":
        got = perplexity(model, text, tokenizer=tokenizer, window=256)
        assert got["tokens"] == 1461 * 255
        assert round(got["perplexity"], 2) == 37.41
        return
    tokens = torch.tensor(tokenizer(text.read_text(encoding="utf-8"))["input_ids"])
    windows = tokens[: len(tokens) // 256 * 256].view(-1, 256)
    assert len(windows) == 1461
    losses = torch.tensor([perplexity(model, row, window=256)["loss"] for row in windows[::16]])
    error = losses.std() / len(losses) ** 0.5
    assert abs(losses.mean() - math.log(37.41)) < 3 * error < 0.15
