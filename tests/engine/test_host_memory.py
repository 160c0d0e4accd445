"""Memory that is freed is used again wherever a model computes, and given back between blocks."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

import steppe
from steppe import methods
from steppe.engine import host_memory
from steppe.engine.host_memory import mapped, reused

KEPT, MAPPED, USUAL = (32 << 20, 1 << 30), (1 << 20, 128 << 10), (32 << 20, 64 << 20)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What the C library was told, in order."""
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(host_memory, "_set", lambda mapping, trim: told.append((mapping, trim)))
    return told


def test_one_inside_another_changes_nothing_and_at_the_end_all_is_as_usual(
    said: list[Any],
) -> None:
    with mapped():
        with reused():
            with mapped(), reused():
                pass
            with pytest.raises(ValueError, match="a run"), reused():
                raise ValueError("a run that fails")
            assert said == [MAPPED, KEPT]
        assert said[2:] == [MAPPED]
    assert said[3:] == [USUAL]


def test_the_order_in_which_they_end_does_not_count(said: list[Any]) -> None:
    one, other = mapped(), reused()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert said[-1] == KEPT
    other.__exit__(None, None, None)
    assert said[-1] == USUAL


def _train(model: Path, text: Path, out: Path) -> None:
    steppe.train(
        {
            "task": "causal_lm",
            "model": str(model),
            "data": {"text": "self", "window": 16},
            "method": {"name": "elsa", "sparsity": 0.5, "objective": "distillation"},
            "train": {"tokens": 256, "batch_size": 4},
            "evaluate": {"texts": [str(text)]},
            "device": "cpu",
        },
        out,
    )


def _prune(model: Path, text: Path, out: Path) -> None:
    search = {"name": "evopress", "levels": 1, "generations": 1, "offspring": 2, "survivors": (1,)}
    method = methods.sparsegpt(sparsity=0.5, budget=search | {"tokens": (64,)})
    steppe.prune(model, method, text, out, measure=0, window=16, samples=8)


@pytest.mark.parametrize("work", [_train, _prune])
def test_wherever_a_model_computes_freed_memory_is_used_again(
    work: Any,
    said: list[Any],
    language_model: Path,
    word_text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    then: list[tuple[int, int]] = []
    layer = type(LlamaForCausalLM.from_pretrained(language_model).model.layers[0].mlp)
    forward = layer.forward

    def looked_at(self: Any, x: torch.Tensor) -> torch.Tensor:
        looking = "decide" in {frame.name for frame in traceback.extract_stack()}
        if x.device.type == "cpu" and not looking:  # a single pass, before the work
            then.append(said[-1])
        return forward(self, x)

    monkeypatch.setattr(layer, "forward", looked_at)
    work(language_model, word_text, tmp_path / "out")
    assert then
    assert then.count(KEPT) == len(then)
    assert said[-1] == USUAL
