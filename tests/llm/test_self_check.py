"""The walk beside one forward pass of the model: what is no walk is found and named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from steppe import SteppeError
from steppe.llm.model import StreamedModel
from steppe.llm.self_check import check_stream, relative_error, sample_texts
from steppe.llm.stream import Stream


@pytest.fixture
def model(language_model: Path) -> StreamedModel:
    return StreamedModel(str(language_model))


def check(model: StreamedModel) -> Any:
    return check_stream(model, Stream(model), 16)


def test_a_row_of_blocks_is_one(model: StreamedModel) -> None:
    verdict = check(model)
    assert verdict.reason is None
    assert verdict.error <= 1e-6
    assert all(p.is_meta for p in model.model.parameters()), "nothing is left in memory"


def changed(model: StreamedModel, change: Any) -> None:
    """The blocks' class does something else, in the model as in the walk."""
    kind = type(model.blocks[0])
    plain = kind.forward
    made = type("Changed", (kind,), {"forward": lambda self, *a, **k: change(self, plain, *a, **k)})
    for block in model.blocks:
        block.__class__ = made


def counts_its_calls(self: Any, plain: Any, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
    self.calls = getattr(self, "calls", 0) + 1
    return plain(self, hidden, *args, **kwargs) * self.calls


def returns_a_dict(self: Any, plain: Any, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
    return {"hidden": plain(self, hidden, *args, **kwargs)}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (counts_its_calls, r"model\.layers\.0 gives something else in the walk"),
        (returns_a_dict, "a block that returns dict"),
    ],
)
def test_blocks_of_another_kind(model: StreamedModel, change: Any, expected: str) -> None:
    changed(model, change)
    reason = check(model).reason
    assert reason is not None
    assert re.search(expected, reason), reason


def runs(model: StreamedModel, forward: Any) -> None:
    """Another way through the blocks."""
    inner = model.model.model
    plain = type(inner).forward

    def other(*args: Any, **kwargs: Any) -> Any:
        blocks = list(inner.layers)
        inner.layers = forward(blocks)
        try:
            return plain(inner, *args, **kwargs)
        finally:
            inner.layers = torch.nn.ModuleList(blocks)

    inner.forward = other


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([1, 0], "stand-ins for its blocks do not do"),
        ([0, 0], "runs out of turn, or more than once"),
        ([0], r"model\.layers\.1 does not run on text alone"),
    ],
)
def test_another_order_of_blocks(model: StreamedModel, order: list[int], expected: str) -> None:
    runs(model, lambda blocks: torch.nn.ModuleList(blocks[i] for i in order))
    verdict = check(model)
    assert verdict.reason is not None
    assert re.search(expected, verdict.reason), verdict.reason


def test_a_model_that_text_does_not_run(model: StreamedModel) -> None:
    def ends(*_: Any, **__: Any) -> None:
        raise KeyError("pixel_values")

    model.model.model.norm.forward = ends
    with pytest.raises(SteppeError, match=r"LlamaForCausalLM, which ended with KeyError.*sparsify"):
        check(model)


def test_errors_are_relative_and_infinities_are_equal() -> None:
    inf = float("inf")
    assert relative_error(torch.tensor([1.0, inf]), torch.tensor([2.0, inf])) == 0.5
    assert relative_error(torch.tensor([1.0, 0.0]), torch.tensor([2.0, inf])) == inf
    assert relative_error(torch.ones(2), torch.ones(3)) == inf


def test_texts_are_different_and_without_padding(model: StreamedModel) -> None:
    model.config.pad_token_id = 3
    texts = sample_texts(model, 200)
    assert texts.shape == (2, 2, 200)
    assert not bool((texts == 3).any())
    assert len({tuple(row.tolist()) for row in texts.flatten(0, 1)}) == 4
