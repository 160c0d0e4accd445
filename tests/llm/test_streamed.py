"""Perplexity block after block is that of the whole model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steppe import SteppeError
from steppe.engine.progress import watched
from steppe.llm.model import StreamedModel
from steppe.llm.perplexity import perplexity
from steppe.llm.streamed import streamed_perplexity


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_it_is_that_of_the_model_in_memory(
    language_model: Path, tmp_path: Path, batch: int
) -> None:
    from transformers import AutoModelForCausalLM

    tokens = torch.randint(26, (7, 16))
    model = StreamedModel(str(language_model))
    found = streamed_perplexity(model, tokens, tmp_path, batch=batch)
    plain = AutoModelForCausalLM.from_pretrained(language_model)
    # windows that do not overlap: the same ids in one row, cut where they were joined
    expected = perplexity(plain, tokens.flatten(), window=16)
    # sums of float32 losses in another order
    assert found["perplexity"] == pytest.approx(expected["perplexity"], rel=1e-6)
    assert found["tokens"] == expected["tokens"] == 7 * 15
    assert found["windows"] == 7
    assert found["dtype"] == "float32"
    assert list(tmp_path.iterdir()) == [], "the hidden states are gone"


def test_the_model_may_have_been_used_before(language_model: Path, tmp_path: Path) -> None:
    tokens = torch.randint(26, (4, 16))
    model = StreamedModel(str(language_model))
    model.embed(tokens[:1, :5])
    first = streamed_perplexity(model, tokens, tmp_path)["loss"]
    model.free_rest()
    assert streamed_perplexity(model, tokens, tmp_path)["loss"] == first


def test_tokens_beyond_the_vocabulary(language_model: Path, tmp_path: Path) -> None:
    model = StreamedModel(str(language_model))
    with pytest.raises(SteppeError, match="token 26"):
        streamed_perplexity(model, torch.full((1, 4), 26), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_those_who_watch_see_windows_go_by(language_model: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int, str]] = []
    tokens = torch.randint(26, (5, 8))
    with watched(lambda *step: seen.append(step)):
        streamed_perplexity(StreamedModel(str(language_model)), tokens, tmp_path, 2, title="this")
    assert seen[0] == ("this", 0, 5, "windows")
    assert seen[-1] == ("this", 5, 5, "windows")
    assert [done for _, done, *_ in seen] == sorted(done for _, done, *_ in seen)
    assert len({done for _, done, *_ in seen}) > 3
