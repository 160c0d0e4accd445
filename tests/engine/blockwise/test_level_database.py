"""Solved layers in a folder."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from steppe import SteppeError, methods
from steppe.engine.blockwise.config import BlockwiseConfig
from steppe.engine.blockwise.level_database import LevelDatabase
from steppe.engine.blockwise.states import HiddenStates
from steppe.engine.blockwise.walk import Blockwise


def built(toy: ModuleType, folder: Path, windows: int = 6) -> LevelDatabase:
    made = methods.wanda(sparsity=0.5)
    run = Blockwise(toy.Row(), made, BlockwiseConfig(), toy.tokens(12), folder).context
    offers = {x.name: {0: x.numel // 2, 1: x.numel // 4} for x in run.layers}
    database = LevelDatabase(run, offers, windows, folder / "levels")
    database.build()
    return database


def test_layers_are_those_of_their_level_and_the_others_stay(
    toy: ModuleType, tmp_path: Path
) -> None:
    database, row = built(toy, tmp_path), toy.Row()
    module = row.load(1)
    before = {n: p.clone() for n, p in module.named_parameters()}
    database.place(1, module, {"blocks.1.attention.q.weight": 1})
    after = dict(module.named_parameters())
    zeros = int((after["attention.q.weight"] == 0).sum())
    assert zeros == toy.WIDTH**2 // 4
    assert all(torch.equal(after[n], before[n]) for n in before if n != "attention.q.weight")


def test_only_the_first_windows_are_looked_at(toy: ModuleType, tmp_path: Path) -> None:
    few, many = built(toy, tmp_path / "few", 2), built(toy, tmp_path / "many", 12)
    assert few.path(0).read_bytes() != many.path(0).read_bytes()
    again = built(toy, tmp_path / "again", 2)
    assert few.path(2).read_bytes() == again.path(2).read_bytes()


def test_a_file_that_was_cut_short_is_named(toy: ModuleType, tmp_path: Path) -> None:
    database, row = built(toy, tmp_path), toy.Row()
    path = database.path(1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SteppeError, match=r"block-00001\.safetensors"):
        database.place(1, row.load(1), {"blocks.1.attention.q.weight": 1})


def test_begun_again_the_dense_model_runs_only_up_to_what_is_missing(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = built(toy, tmp_path).path(1)
    whole, passed = path.read_bytes(), []
    propagate = HiddenStates.propagate

    def noted(states: HiddenStates, index: int) -> None:
        passed.append(index)
        propagate(states, index)

    monkeypatch.setattr(HiddenStates, "propagate", noted)
    built(toy, tmp_path)
    assert passed == []
    path.unlink()
    built(toy, tmp_path)
    assert passed == [0]
    assert path.read_bytes() == whole
