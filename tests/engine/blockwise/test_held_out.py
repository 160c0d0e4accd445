"""A block that its training does not make better keeps what it started from."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from steppe import Method, SteppeError, methods
from steppe.engine.blockwise.compatibility import check
from steppe.engine.blockwise.config import BlockwiseConfig, ReconstructionConfig
from steppe.engine.blockwise.held_out import windows_apart
from steppe.engine.blockwise.walk import Blockwise
from steppe.objective.block_reconstruction import BlockReconstruction
from walked import masks, weights

FIT = ReconstructionConfig(epochs=3, warmup_epochs=0, batch_size=4, lr=1e-3)
MAD = ReconstructionConfig(epochs=1, warmup_epochs=0, batch_size=4, lr=1e3)


def walk(
    toy: ModuleType,
    out: Path,
    method: Method,
    fit: ReconstructionConfig = FIT,
    windows: int = 8,
    kind: str = "plain",
) -> tuple[list[dict[str, Any]], list[str]]:
    config = BlockwiseConfig(micro_batch=4, reconstruction=fit)
    row = toy.Row(kind=kind)
    job = Blockwise(row, method.for_language(), config, toy.tokens(windows), out)
    return job.run(), job.notes


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize(("windows", "judged_on"), [(8, 1), (8, 3), (9, 8), (2, 1), (5, 0)])
def test_every_window_is_trained_on_or_held_out(windows: int, judged_on: int) -> None:
    trained_on, held_out = windows_apart(windows, judged_on)
    assert len(held_out) == judged_on
    assert sorted([*trained_on.tolist(), *held_out.tolist()]) == list(range(windows))


def test_how_many_are_held_out() -> None:
    started = BlockReconstruction(start="layer_admm")
    assert [started.judged_on(n) for n in (1, 2, 8, 64, 128)] == [0, 1, 1, 8, 16]
    assert BlockReconstruction(start="layer_admm", held_out=0.0).judged_on(64) == 0
    assert BlockReconstruction().judged_on(64) == 0, "without a start there is nothing to keep"
    for share in (-0.1, 1.0):
        with pytest.raises(SteppeError, match="at least 0 and below 1"):
            BlockReconstruction(held_out=share)


@pytest.mark.parametrize("shape", [{"sparsity": 0.6}, {"structure": "2:4"}], ids=str)
@pytest.mark.parametrize(
    ("name", "start", "alone"),
    [
        ("safe", "layer_admm", "alps"),
        ("safe_plus", "layer_admm", "alps"),
        ("safe", "obs_update", "sparsegpt"),
        ("safe_plus", "obs_update", "sparsegpt"),
    ],
)
def test_a_training_that_only_harms_leaves_the_published_method_of_the_start(
    name: str, start: str, alone: str, shape: dict[str, Any], toy: ModuleType, tmp_path: Path
) -> None:
    rows, _ = walk(toy, tmp_path / "a", methods.make(name, start=start, **shape), MAD)
    walk(toy, tmp_path / "b", methods.make(alone, **shape))
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert same(masks(tmp_path / "a"), masks(tmp_path / "b"))
    for row in rows:
        judged = row["held_out"]["block"]
        assert judged["kept"] == "start"
        assert not judged["trained"] < judged["start"]


@pytest.mark.parametrize("kind", ["plain", "conv1d", "experts"])
@pytest.mark.parametrize("name", ["safe", "safe_plus"])
def test_the_default_is_never_behind_its_start(
    name: str, kind: str, toy: ModuleType, tmp_path: Path
) -> None:
    """Neither behind SparseGPT and ALPS, by the first block's error on what is held out."""
    method = methods.make(name, sparsity=0.6)
    rows, _ = walk(toy, tmp_path / "a", method, kind=kind)
    held_out = windows_apart(8, 1)[1]
    row = toy.Row(kind=kind)
    hidden = row.embedding[toy.tokens(8)][held_out]
    errors = {}
    wanted = row.load(0)(hidden)
    for other in ("sparsegpt", "alps"):
        walk(toy, tmp_path / other, methods.make(other, sparsity=0.6), kind=kind)
    for place in ("a", "sparsegpt", "alps"):
        block = toy.Row(kind=kind).load(0)
        written = weights(tmp_path / place)
        block.load_state_dict({n: written[f"block-0.{n}"] for n in block.state_dict()})
        difference = block(hidden) - wanted
        errors[place] = float(difference.square().sum() / wanted.square().sum())
    assert errors["a"] <= errors["alps"] * (1 + 1e-5)
    assert errors["a"] < errors["sparsegpt"]
    judged = rows[0]["held_out"]["block"]
    assert judged["windows"] == 1
    assert errors["alps"] == pytest.approx(judged["start"], rel=1e-4)
    assert errors["a"] == pytest.approx(min(judged["start"], judged["trained"]), rel=1e-4)
    assert json.loads(json.dumps(rows)) == rows


def test_children_are_judged_one_by_one(toy: ModuleType, tmp_path: Path) -> None:
    objective = {"name": "block_reconstruction", "start": "hard_mask", "apart": True}
    rows, _ = walk(toy, tmp_path, methods.safe(sparsity=0.5, objective=objective))
    assert [list(row["held_out"]) for row in rows] == [["attention", "feed_forward"]] * 3


def test_one_window_leaves_none_to_judge_by(toy: ModuleType, tmp_path: Path) -> None:
    rows, notes = walk(toy, tmp_path, methods.safe(sparsity=0.5), windows=1)
    assert not any("held_out" in row for row in rows)
    assert len([note for note in notes if "one calibration window" in note]) == 1


def test_one_window_held_out_is_little_to_judge_by(toy: ModuleType, tmp_path: Path) -> None:
    for windows, said in ((4, 1), (12, 0)):
        _, notes = walk(toy, tmp_path / str(windows), methods.safe(sparsity=0.5), windows=windows)
        assert len([note for note in notes if "windows one is held out" in note]) == said


def test_a_start_must_fit_the_structure(toy: ModuleType) -> None:
    method = methods.safe(sparsity=0.5, structure="block:2x2", start="obs_update").for_language()
    with pytest.raises(SteppeError, match="rows must not be tied"):
        check(method, toy.Row().layers(), toy.tokens())


def test_with_the_starts_zeros_safe_plus_is_safe(toy: ModuleType, tmp_path: Path) -> None:
    for name in ("safe", "safe_plus"):
        walk(toy, tmp_path / name, methods.make(name, sparsity=0.6))
    assert same(weights(tmp_path / "safe"), weights(tmp_path / "safe_plus"))
