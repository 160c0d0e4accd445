"""Mixtures of solved layers, compared by the whole model's predictions."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import steppe
from steppe import Method, SteppeError, methods
from steppe.engine.blockwise import walk as module_walk
from steppe.engine.blockwise.config import BlockwiseConfig
from steppe.engine.blockwise.level_database import LevelDatabase
from steppe.engine.blockwise.level_search import Divergence
from steppe.engine.blockwise.walk import Blockwise

SMALL = {"generations": 3, "offspring": 6, "survivors": (2, 1), "tokens": (10, 30), "levels": 2}
PARTS = ("checkpoints/levels", "search.json")


def method(name: str = "sparsegpt", **options: Any) -> Method:
    made: Method = methods.make(name, sparsity=0.5).for_language()
    return made.replace(budget={"name": "evopress", "sparsity": 0.5} | SMALL | options)


def walk(toy: ModuleType, out: Path, made: Method, windows: int = 12, kind: str = "plain") -> Any:
    return Blockwise(toy.Row(kind=kind), made, BlockwiseConfig(), toy.tokens(windows), out)


def levels(out: Path) -> dict[str, Any]:
    return json.loads((out / "checkpoints/levels/search.json").read_text())


@pytest.mark.parametrize("kind", ["plain", "conv1d", "experts"])
def test_the_count_is_exact_and_each_layer_has_what_was_found(
    toy: ModuleType, tmp_path: Path, kind: str
) -> None:
    job = walk(toy, tmp_path, method("wanda"), kind=kind)
    rows = [layer for block in job.run() for layer in block["layers"]]
    weights = sum(torch.Size(x["shape"]).numel() for x in rows)
    zeros = sum(round(x["sparsity_reached"] * torch.Size(x["shape"]).numel()) for x in rows)
    assert zeros == round(0.5 * weights)
    found = levels(tmp_path)
    assert not list((tmp_path / "checkpoints").rglob("block-*.safetensors"))
    assert found["rounds"] == 3
    assert any(found["levels"].values())
    for row in rows:
        size = torch.Size(row["shape"]).numel()
        step = round(0.05 * size)
        assert row["sparsity_asked"] * size == pytest.approx(
            size / 2 + step * found["levels"][row["name"]], abs=1
        )


def test_the_divergence_is_that_of_whole_models(toy: ModuleType, tmp_path: Path) -> None:
    """Beside plain forward passes with the weights of the database put into place."""
    run = walk(toy, tmp_path, method()).context
    run.inputs.embed(0)
    sizes = {x.name: x.numel for x in run.layers}
    offers = run.method.budget.offers(
        {x.name: x for x in run.layers}, sizes, sum(sizes.values()) // 2
    )
    database = LevelDatabase(run, offers, 9, tmp_path / "levels")
    database.build()
    tokens = toy.tokens(12)[9:]
    draws = torch.Generator().manual_seed(5)
    mixed = [
        {n: int(torch.randint(-2, 3, (), generator=draws)) for n in sizes},
        dict.fromkeys(sizes, 0),
        {n: 2 if n.startswith("blocks.2") else 0 for n in sizes},
    ]
    found = Divergence(run, database, tokens)(mixed, 10**6, 0)

    def predictions(candidate: dict[str, int]) -> torch.Tensor:
        row, hidden = toy.Row(), toy.Row().embedding[tokens]
        for index in range(len(row)):
            module = row.load(index)
            saved = load_file(tmp_path / "levels" / f"block-{index:05d}.safetensors")
            for name, parameter in module.named_parameters():
                place = f"blocks.{index}.{name}"
                if place in candidate:
                    weight = saved[f"{place}@{candidate[place]}"].float()
                    assert int((weight == 0).sum()) == offers[place][candidate[place]]
                    parameter.copy_(weight)
            hidden = module(hidden)
        return row.head(hidden).log_softmax(-1)

    dense = predictions({})
    for candidate, value in zip(mixed, found, strict=True):
        sparse = predictions(candidate)
        expected = (dense.exp() * (dense - sparse)).sum(-1).mean()
        assert value == pytest.approx(float(expected), rel=1e-4)


def test_killed_and_resumed_it_is_the_same(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = walk(toy, whole, method()).run()
    better, solve = type(method().budget).better, LevelDatabase._solve
    for target, stop in (("_solve", 1), ("better", 2)):
        calls = []

        def dies(self: Any, *given: Any, stop: int = stop, calls: list[int] = calls, **more: Any):
            if len(calls) == stop:
                raise KeyboardInterrupt
            calls.append(1)
            own = solve if isinstance(self, LevelDatabase) else better
            return own(self, *given, **more)

        with monkeypatch.context() as patch:
            owner = LevelDatabase if target == "_solve" else type(method().budget)
            patch.setattr(owner, target, dies)
            with pytest.raises(KeyboardInterrupt):
                walk(toy, killed, method()).run()
    assert levels(killed)["rounds"] == 2
    with monkeypatch.context() as patch:
        patch.setattr(LevelDatabase, "_solve", None)  # nothing is solved again
        again = walk(toy, killed, method()).run()
    assert levels(killed) == levels(whole)
    for a, b in zip(expected, again, strict=True):
        assert [{**x, "seconds": 0} for x in a["layers"]] == [
            {**x, "seconds": 0} for x in b["layers"]
        ]


def test_solved_layers_go_though_a_kill_came_before(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = reached(walk(toy, tmp_path / "a", method("wanda")).run())
    monkeypatch.setattr(module_walk, "forget_layers", dying)
    with pytest.raises(KeyboardInterrupt):
        walk(toy, tmp_path / "b", method("wanda")).run()
    assert list((tmp_path / "b" / "checkpoints").rglob("block-*.safetensors"))
    monkeypatch.undo()
    monkeypatch.setattr(module_walk, "searched", None)
    assert reached(walk(toy, tmp_path / "b", method("wanda")).run()) == undisturbed
    assert not list((tmp_path / "b" / "checkpoints").rglob("block-*.safetensors"))


def dying(folder: Path) -> None:
    raise KeyboardInterrupt


def reached(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {layer["name"]: layer["sparsity_reached"] for row in rows for layer in row["layers"]}


def test_blocks_that_start_from_a_solution_take_its_solver(toy: ModuleType, tmp_path: Path) -> None:
    made = steppe.methods.safe(sparsity=0.5).for_language()
    budget = {"name": "evopress", "sparsity": 0.5} | SMALL | {"generations": 1}
    job = walk(toy, tmp_path, made.replace(budget=budget))
    counts = job._counts()
    assert sum(counts.values()) == sum(x.numel for x in job.context.layers) // 2


def test_too_few_windows(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SteppeError, match=r"1 calibration window. Way out.*--samples 128"):
        walk(toy, tmp_path, method(), windows=1).run()
    with pytest.raises(SteppeError, match="needs calibration text"):
        Blockwise(toy.Row(), method(), BlockwiseConfig(), None, tmp_path)


def test_a_model_called_whole_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    job = walk(toy, tmp_path, method())
    job.context.blocks.chained = False
    with pytest.raises(SteppeError, match="evopress tries candidates out block after block"):
        job._counts()
