"""Calibration: what a method needs to know of the inputs of a block's layers."""

from __future__ import annotations

from collections.abc import Sequence

from steppe.core.protocols import Score
from steppe.engine.blockwise.allocation import unit_budget
from steppe.engine.blockwise.calibration_collector import CalibrationCollector
from steppe.engine.blockwise.context import BlockContext, Run
from steppe.engine.blockwise.input_recorder import InputRecorder

_FEW = "calibration tokens are fewer than its"


def calibrate(block: BlockContext) -> None:
    """One pass of the windows through a block that is still dense, if the method needs one."""
    method = block.run.method
    needs = sorted(method.calibration_needs | set(method.objective.start_needs))
    if not needs:
        return
    block.statistics = collect(block, needs)
    for name in block.statistics.unused():
        block.note(f"{name}: no calibration token reached it; its weights alone decided")
    few = block.statistics.few()
    if few and not any(_FEW in note for note in block.run.notes):
        name, (tokens, inputs) = next(iter(few.items()))
        block.note(
            f"{name}: {tokens} {_FEW} {inputs} inputs, and so it may be elsewhere: an error of 0 "
            "on them says nothing of other texts. Way out: more samples, or a longer window"
        )


def profile(run: Run) -> dict[str, float]:
    """What the budget wants to know of each layer of the dense model: one pass through all of it.

    A score that needs no inputs is asked with no text running through the blocks.

    Returns:
        Layer name -> the budget's own number; nothing for budgets that ask for nothing.
    """
    budget = unit_budget(run.method)
    if not budget.profiled_by:
        return {}
    score = Score.make(str(budget.profiled_by))
    profiles: dict[str, float] = {}
    if score.needs:
        run.inputs.embed(0)
    for index in range(len(run.blocks)):
        block = run.load(index, None)
        statistics = collect(block, list(score.needs), propagate=True) if score.needs else None
        for name, (layer, weight) in block.pieces.items():
            known = {} if statistics is None else statistics.of(name)
            saliency = score.score(layer.flat(weight).float(), known, name)
            profiles[name] = budget.profile(saliency)
        run.blocks.free(index)
    for layer in run.layers:
        pieces = [profiles[p.name] for p in layer.split()]
        profiles[layer.name] = sum(pieces) / len(pieces)
    return profiles


def collect(
    block: BlockContext,
    needs: Sequence[str],
    *,
    propagate: bool = False,
    windows: int | None = None,
) -> CalibrationCollector:
    """One pass through a block.

    Args:
        block: the block at work.
        needs: names of the statistics.
        propagate: whether its outputs become the next block's inputs.
        windows: only the first so many; all if not given.
    """
    run, layers = block.run, {name: layer for name, (layer, _) in block.pieces.items()}
    collector = CalibrationCollector(layers, needs, run.blocks.device)
    with InputRecorder(block.weights, collector.see) as recorder:
        collector.groups = recorder.groups
        further = propagate and block.index + 1 < len(run.blocks)
        if further and run.blocks.chained:
            run.inputs.propagate(block.index)
        else:
            run.inputs.replay(block.index, recorder, windows)
    if further and not run.blocks.chained:
        run.inputs.propagate(block.index)
    collector.finish()
    return collector
