"""Whole decoder blocks of language models, which are removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import Structure, UnitBudget

if TYPE_CHECKING:
    from steppe.method import Method


@Structure.registry.register("layers")
@dataclass(frozen=True, kw_only=True)
class Layers(Structure):
    """A unit is a whole decoder block, attention and feed-forward part together.

    What the block before it gives goes to the block behind it. Sparsity counts blocks. A config of
    transformers has no word for a block without its attention, or without its feed-forward part.

    Seen alone, a layer goes whole or stays whole.
    """

    name = "layers"
    removes = "blocks"

    def fits(self, method: Method) -> None:
        if isinstance(method.budget, UnitBudget):
            raise SteppeError(
                "whole blocks are chosen by what a language model is without them",
                got=f"structure layers with budget {method.budget.name}",
                way_out="method depth, with budget block_loss or block_influence",
            )

    def count(self, layer: Layer, sparsity: float) -> int | None:
        return 0  # of a layer by itself: it goes with its block

    def groups(self, weight: Tensor, layer: Layer) -> Tensor:
        return weight.reshape(1, 1, -1)

    def expand(self, keep: Tensor, layer: Layer) -> Tensor:
        return keep.reshape(()).repeat(layer.shape)

    def units(self, layer: Layer) -> tuple[int, int]:
        return 1, 1
