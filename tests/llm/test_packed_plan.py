from __future__ import annotations

import pytest
import torch

from steppe.core.layer import Layer
from steppe.llm import packed_plan as planning
from steppe.sparse.choose import Choice, Question
from steppe.sparse.formats.bits import Bits


def test_bytes_are_those_of_the_format_but_for_offsets_and_padding() -> None:
    weight = torch.randn(128, 96).bfloat16()
    weight[torch.rand(128, 96) < 0.7] = 0
    zeros = int((weight == 0).sum())
    plan = planning.packed_plan([Layer("w", (128, 96))], {"w": zeros}, torch.bfloat16)
    beside = Bits.from_dense(weight)
    assert plan["bytes"] == pytest.approx(beside.bytes - 8 * 33 - 2 * 128, abs=64)
    assert plan["dense_bytes"] == 2 * 128 * 96


def test_a_speed_is_only_said_of_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [Layer("a", (64, 64)), Layer("b", (64, 32))]

    def remembered(question: Question) -> Choice | None:
        speeds = {"bits": {"ratio": 2.0}}
        return Choice(format="bits", why="", speeds=speeds) if question.columns == 64 else None

    zeros = {"a": 2048, "b": 1024}
    assert planning.packed_plan(layers, zeros, torch.float32)["ratio"] is None
    monkeypatch.setattr(planning, "remembered", remembered)
    plan = planning.packed_plan(layers, zeros, torch.float32)
    assert (plan["measured"], plan["ratio"]) == (1, 2.0)
    assert planning.packed_line(plan).endswith(
        "matrices (1 of them known) 2.00 times as fast as dense for one token"
    )
