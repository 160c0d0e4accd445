"""Whole output channels (rows), as masks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from steppe.core.layer import Layer
from steppe.core.protocols import Structure


@Structure.registry.register("channel")
@dataclass(frozen=True, kw_only=True)
class Channel(Structure):
    """A unit is an output channel: all weights that compute it.

    The model's output layer stays dense unless it is included by name: its channels are the
    classes. Sparsity counts channels.
    """

    name = "channel"
    whole_outputs = True

    def groups(self, weight: Tensor, layer: Layer) -> Tensor:
        return layer.flat(weight).unsqueeze(1)

    def expand(self, keep: Tensor, layer: Layer) -> Tensor:
        return layer.unflat(keep.expand(layer.rows, layer.columns)).contiguous()

    def units(self, layer: Layer) -> tuple[int, int]:
        return layer.rows, 1
