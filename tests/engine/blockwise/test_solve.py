"""Layers solved one by one: which shape, how many, where the result goes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from steppe import Method, methods
from steppe.core.layer import Layer
from steppe.core.protocols import AnyCoupling, LayerSolver, Structure
from steppe.engine.blockwise.calibration_collector import CalibrationCollector
from steppe.engine.blockwise.config import BlockwiseConfig
from steppe.engine.blockwise.context import BlockContext, Run
from steppe.engine.blockwise.solve import chooser, solve_block

ONE = Layer("a", (6, 8), block="b")
CONV1D = Layer("a", (8, 6), transposed=True, block="b")
STACK = Layer("a", (3, 6, 8), stacked=True, block="b")
STACK_T = Layer("a", (3, 8, 6), transposed=True, stacked=True, block="b")
SHAPES = [ONE, CONV1D, STACK, STACK_T]
SOLVERS = [n for n in AnyCoupling.registry if issubclass(AnyCoupling.registry[n], LayerSolver)]


def solve(
    toy: ModuleType, method: Method, layer: Layer, count: int, solver: LayerSolver | None = None
) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Dense weight, new weight, mask, seconds' keys."""
    weight = torch.randn(layer.shape)
    dense = weight.clone()
    parts = list(weight) if layer.stacked else [weight]
    pieces = {p.name: (p, w) for p, w in zip(layer.split(), parts, strict=True)}
    layers = {n: x for n, (x, _) in pieces.items()}
    collector = CalibrationCollector(layers, ["activation_square", "gram"], torch.device("cpu"))
    for name, piece in layers.items():
        collector.see(name, torch.randn(50, piece.columns))
    collector.finish()
    block = BlockContext(
        run=Run(
            blocks=toy.Row(), method=method, config=BlockwiseConfig(), out=Path(), layers=[layer]
        ),
        method=method,
        index=0,
        module=nn.Module(),
        layers=[layer],
        pieces=pieces,
        counts={layer.name: count},
        statistics=collector,
    )
    solver = solver or method.solver
    assert solver is not None
    masks, seconds = solve_block(block, solver)
    return dense, weight, masks[layer.name], list(seconds)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("layer", SHAPES, ids=["linear", "conv1d", "experts", "experts-t"])
@pytest.mark.parametrize("share", [0.0, 0.31, 0.5, 1.0])
def test_exactly_so_many_in_place(toy: ModuleType, solver: str, layer: Layer, share: float) -> None:
    name = {"obs_update": "sparsegpt", "layer_admm": "alps"}.get(solver, "wanda")
    count = round(share * layer.numel)
    dense, new, mask, names = solve(
        toy, methods.make(name, sparsity=0.5, budget="uniform"), layer, count
    )
    assert mask.shape == new.shape == layer.shape
    assert mask.is_contiguous()
    assert int((~mask).sum()) == count
    assert not bool(new[~mask].any())
    assert names == [p.name for p in layer.split()]
    if layer.stacked:
        each = (~mask).flatten(1).sum(1)
        assert int(each.max() - each.min()) <= 1, "experts share evenly"
    if not count:
        assert torch.equal(new, dense)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("layer", SHAPES, ids=["linear", "conv1d", "experts", "experts-t"])
def test_two_of_four_inputs(toy: ModuleType, solver: str, layer: Layer) -> None:
    name = {"obs_update": "sparsegpt", "layer_admm": "alps"}.get(solver, "wanda")
    _, _, mask, _ = solve(toy, methods.make(name, structure="2:4"), layer, layer.numel // 2)
    inputs_last = layer.flat(mask)
    assert inputs_last.shape == (layer.rows, 8)
    assert bool((inputs_last.reshape(-1, 4).sum(1) == 2).all())


def test_magnitude_by_hand(toy: ModuleType) -> None:
    method = methods.magnitude(
        sparsity=0.5, objective="layer_reconstruction", budget={"name": "uniform", "sparsity": 0.5}
    )
    dense, new, mask, _ = solve(toy, method, ONE, 20)
    order = dense.abs().flatten().argsort()
    assert not bool(mask.flatten()[order[:20]].any())
    assert torch.equal(new, dense * mask)


def test_another_coupling_than_the_methods(toy: ModuleType) -> None:
    method = methods.wanda(sparsity=0.5, budget="uniform")
    dense, new, mask, _ = solve(toy, method, ONE, 24, LayerSolver.make("obs_update"))
    assert not torch.equal(new, dense * mask), "the others made up for what went"


def test_blocks_of_weights_are_chosen_whole() -> None:
    method = methods.magnitude(
        sparsity=0.5, structure="block:2x4", objective="layer_reconstruction", budget="uniform"
    )
    for layer in (ONE, CONV1D):
        choose = chooser(method, layer)
        saliency = torch.rand(6, 8)
        mask = choose(saliency, 3)
        tiles = mask.reshape(3, 2, 2, 4).permute(0, 2, 1, 3).reshape(6, 8)
        assert set(tiles.sum(1).tolist()) == {0, 8}
        assert int((tiles.sum(1) == 0).sum()) == 3
    assert Structure.make("block:2x4").columns is None
