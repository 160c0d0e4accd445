"""How much is done until it is known how deep and how wide a model is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from steppe.llm.plan_trial import called_block, evaluation, pruned_block, seconds_of
from steppe.llm.prepare import PreparedPruning
from steppe.llm.structured.block_trials import CountedTrials
from steppe.llm.structured.shape import Shape
from steppe.llm.structured.weighing import (
    pruning_to,
    structure_of,
    widths_tried,
    windows_of,
)


@dataclass(frozen=True)
class Work:
    """What weighing depth against width does, but for what its choices save.

    Args:
        rounds: in which blocks are tried out.
        loads: of a block, in these rounds.
        passes: of a window through a block, in them.
        losses: of a window, in them.
        widths: at which the model is pruned with all of its blocks.
        shapes: that are made and measured, at most.
    """

    rounds: int
    loads: int
    passes: int
    losses: int
    widths: int
    shapes: int


def counted(prepared: PreparedPruning, offers: Sequence[Shape]) -> Work:
    """The work of a pruning; nothing is loaded.

    Args:
        prepared: of depth and width.
        offers: the shapes of which one is taken.
    """
    names, whole = prepared.model.names, Shape.of(prepared.model.config)
    _, held_out, few = windows_of(prepared)
    rounds = whole.blocks - min(shape.blocks for shape in offers)
    loads = passes = losses = 0
    for gone in range(rounds):  # whichever these are
        left = names[gone:]
        for windows, may_go in ((few, left), (held_out, left[:1])):
            trials = CountedTrials(left, may_go)
            trials.losses()
            loads += trials.loads
            passes += trials.passes * len(windows)
            losses += trials.heads * len(windows)
    widths = sum(map(len, widths_tried(prepared, whole, offers).values()))
    shapes = min(structure_of(prepared).tried, len(offers))
    return Work(rounds, loads, passes, losses, widths, shapes)


def seconds_of_work(
    prepared: PreparedPruning, offers: Sequence[Shape], texts: Mapping[str, Tensor]
) -> dict[str, float]:
    """Seconds of each part of it, from one block that is called and one that is pruned.

    Args:
        prepared: of depth and width; how blocks are called is decided.
        offers: the shapes of which one is taken; the deepest and the narrowest count.
        texts: on which perplexity is measured.
    """
    model, work, taken = prepared.model, counted(prepared, offers), called_block(prepared)
    fit, held_out, _ = windows_of(prepared)
    blocks, deepest = len(model), max(shape.blocks for shape in offers)
    narrowest = min(offers, key=lambda shape: shape.block)
    pruning = 0.0
    if narrowest.block < Shape.of(model.config).block:
        inner = pruning_to(prepared, narrowest, model.folder, fit, prepared.out)
        inner.decide()
        pruning = sum(seconds_of(inner, {}, pruned_block(inner)).values())
    judging = (taken["load"] + taken["pass"] * len(held_out)) * blocks
    judging += taken["head"] * len(held_out)
    blockwise = taken["load"] * work.loads + taken["pass"] * work.passes
    share, again = deepest / blocks, 1 + len(held_out) / len(fit)
    return {
        "blocks tried out": judging + blockwise + taken["head"] * work.losses,
        "widths": work.widths * (pruning + judging),
        "shapes": work.shapes * (pruning + judging) * share,
        "the best shape": pruning * again * share,
        "cut": (taken["load"] + taken["write"]) * deepest,
    } | evaluation(prepared, texts, taken["pass"], taken["load"])
