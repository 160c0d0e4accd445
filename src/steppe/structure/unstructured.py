"""Every weight on its own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from steppe.core.layer import Layer
from steppe.core.protocols import Structure


@Structure.registry.register("unstructured")
@dataclass(frozen=True, kw_only=True)
class Unstructured(Structure):
    """A unit is one weight; position is the weight's own memory order."""

    name = "unstructured"

    def groups(self, weight: Tensor, layer: Layer) -> Tensor:
        return layer.flat(weight).unsqueeze(-1)

    def expand(self, keep: Tensor, layer: Layer) -> Tensor:
        return layer.unflat(keep)

    def units(self, layer: Layer) -> tuple[int, int]:
        return layer.rows, layer.columns

    @property
    def columns(self) -> int:
        return 1
