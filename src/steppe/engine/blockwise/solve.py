"""The layers of a block solved one by one from their calibration statistics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from steppe.core.layer import Layer
from steppe.core.layer_problem import LayerProblem
from steppe.core.protocols import LayerSolver, Structure
from steppe.core.selection import apportion
from steppe.engine.blockwise.calibrate import CalibrationCollector
from steppe.method import Method


def solve_block(
    method: Method,
    layers: list[Layer],
    pieces: Mapping[str, tuple[Layer, Tensor]],
    counts: Mapping[str, int],
    collector: CalibrationCollector | None,
    note: Callable[[str], None],
    solver: LayerSolver | None = None,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Prune every layer of a block in place.

    Args:
        method: its score, structure, budget and coupling are used.
        layers: the block's layers.
        pieces: piece name -> (layer, weight), experts apart.
        counts: layer name -> units that it loses.
        collector: the calibration statistics, if any.
        note: takes a sentence for each fallback.
        solver: another one than the method's.

    Returns:
        Layer name -> mask of the layer's shape; piece name -> seconds.
    """
    solver = solver or method.solver
    assert solver is not None, f"{method.name} has no solver for layers"
    masks: dict[str, Tensor] = {}
    seconds = {}
    for layer in layers:
        parts = layer.split()
        sizes = {p.name: method.structure.units(p)[0] * method.structure.units(p)[1] for p in parts}
        shares = {name: float(size) for name, size in sizes.items()}
        each = apportion(shares, sizes, counts[layer.name])
        found = []
        for part in parts:
            began = time.perf_counter()
            weight = pieces[part.name][1]
            found.append(_solve(method, solver, part, weight, each[part.name], collector, note))
            seconds[part.name] = time.perf_counter() - began
        masks[layer.name] = torch.stack(found) if layer.stacked else found[0]
    return masks, seconds


def _solve(
    method: Method,
    solver: LayerSolver,
    layer: Layer,
    weight: Tensor,
    prune: int,
    collector: CalibrationCollector | None,
    note: Callable[[str], None],
) -> Tensor:
    shared = collector.of(layer.name) if collector is not None else {}
    problem = LayerProblem(
        name=layer.name,
        weight=layer.flat(weight).float().contiguous(),
        statistics=shared,
        prune=prune,
        choose=chooser(method, layer),
        score=method.score,
        multiple=method.structure.columns or 1,
        note=note,
    )
    new, mask = solver.solve(problem)
    weight.copy_(layer.unflat(new))
    return layer.unflat(mask).contiguous()


def chooser(method: Method, layer: Layer) -> Callable[[Tensor, int], Tensor]:
    """How a layer's mask is chosen from saliencies ``[rows, columns]`` and a number of units."""
    structure: Structure = method.structure

    def choose(saliency: Tensor, prune: int) -> Tensor:
        if structure.columns is not None:  # any columns may be chosen by themselves
            kept = structure.select({"": saliency})
            return method.budget.within(saliency, prune) if kept is None else kept[""]
        units = method.score.reduce(structure.groups(layer.unflat(saliency), layer))
        return layer.flat(structure.expand(method.budget.within(units, prune), layer))

    return choose
