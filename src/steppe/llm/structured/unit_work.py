"""Neurons and heads of a block pruned: one sub-layer after the other, with all that is theirs."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from steppe.core.layer import Layer
from steppe.engine.blockwise.context import BlockContext, dense_copies
from steppe.engine.blockwise.measure import output_errors
from steppe.engine.blockwise.walk import prune_block
from steppe.llm.structured.readers import kept_units, silence


def prune_units(block: BlockContext) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Prune whole units of a block in place.

    The layers that read them are solved in the order in which they run, each on what the block
    computes once the earlier ones are done. What computed the units is zero then too.

    Returns:
        Layer name -> mask, piece name -> seconds, both of the layers that read units.
    """
    masks: dict[str, Tensor] = {}
    seconds: dict[str, float] = {}
    for layer in block.layers:
        pieces = {n: piece for n, piece in block.pieces.items() if n in _names(layer)}
        part = dataclasses.replace(block, layers=[layer], pieces=pieces, seconds={})
        dense = dense_copies(part) if block.measured else {}
        own, solving = prune_block(part)
        if dense:  # while its inputs are there that go
            block.errors |= output_errors(part, dense)
        silence(block.module, {block.relative(layer): kept_units(layer, own[layer.name])})
        masks |= own
        seconds |= solving
        for stage, spent in part.seconds.items():
            block.seconds[stage] = block.seconds.get(stage, 0.0) + spent
    return masks, seconds


def _names(layer: Layer) -> set[str]:
    return {piece.name for piece in layer.split()}
