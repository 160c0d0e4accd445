"""The layers of a block solved one by one from their calibration statistics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from steppe.core.layer import Layer
from steppe.core.layer_problem import LayerProblem
from steppe.core.protocols import LayerSolver, Structure
from steppe.core.selection import apportion
from steppe.engine.blockwise.allocation import sizes_of, unit_budget
from steppe.engine.blockwise.context import BlockContext
from steppe.method import Method


def as_start(method: Method, solver: LayerSolver) -> Method:
    """What solves the layers of a block from whose weights a method then optimises it.

    It ranks as the solver's own published method does, in the structure and the budget of the
    method.

    Raises:
        SteppeError: the solver does not fit the structure.
    """
    parts = {"score": solver.ranks_by} if solver.ranks_by else {}
    return method.replace(
        coupling=solver,
        objective="layer_reconstruction",
        perturb="none",
        language=(),
        **parts,
    )


def solve_block(
    block: BlockContext,
    solver: LayerSolver,
    layers: Sequence[Layer] | None = None,
    method: Method | None = None,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Prune every layer of a block in place.

    Args:
        block: the block, calibrated.
        solver: the method's, or another one that its weights shall start from.
        layers: only these of the block's.
        method: how they are ranked, in which structure and budget; the block's if not given.

    Returns:
        Layer name -> mask of the layer's shape; piece name -> seconds.
    """
    method = method or block.method
    masks: dict[str, Tensor] = {}
    seconds: dict[str, float] = {}
    for layer in block.layers if layers is None else layers:
        pieces = layer.split()
        sizes = sizes_of(method, pieces)
        shares = {name: float(size) for name, size in sizes.items()}
        counts = apportion(shares, sizes, block.counts[layer.name])
        solved = []
        for piece in pieces:
            began = time.perf_counter()
            solved.append(_solve(block, solver, method, piece, counts[piece.name]))
            seconds[piece.name] = time.perf_counter() - began
        masks[layer.name] = torch.stack(solved) if layer.stacked else solved[0]
    return masks, seconds


def _solve(
    block: BlockContext, solver: LayerSolver, method: Method, piece: Layer, prune: int
) -> Tensor:
    """Prune one layer, or one expert of a mixture, in place; its mask."""
    statistics = block.statistics
    weight, gone = block.pieces[piece.name][1], block.gone.get(piece.name)
    problem = LayerProblem(
        name=piece.name,
        weight=piece.flat(weight).float().contiguous(),
        statistics=statistics.of(piece.name) if statistics is not None else {},
        prune=prune,
        choose=chooser(method, piece),
        score=method.score,
        multiple=method.structure.columns or 1,
        unit=piece.unit,
        note=block.note,
        gone=None if gone is None else piece.flat(gone).contiguous(),
    )
    new, mask = solver.solve(problem)
    if problem.gone is not None:  # whatever the solver asked
        new, mask = new.masked_fill(problem.gone, 0.0), mask & ~problem.gone
    weight.copy_(piece.unflat(new))
    if problem.shift is not None:
        block.shifts[piece.name] = problem.shift
        block.bias(piece).add_(problem.shift)
    return piece.unflat(mask).contiguous()


def chooser(method: Method, layer: Layer) -> Callable[[Tensor, int], Tensor]:
    """How a layer's mask is chosen from saliencies ``[rows, columns]`` and a number of units."""
    structure: Structure = method.structure
    budget = unit_budget(method)

    def choose(saliency: Tensor, prune: int) -> Tensor:
        if structure.columns is not None:  # any columns may be chosen by themselves
            kept = structure.select({"": saliency})
            return budget.within(saliency, prune) if kept is None else kept[""]
        units = method.score.reduce(structure.groups(layer.unflat(saliency), layer))
        return layer.flat(structure.expand(budget.within(units, prune), layer))

    return choose
