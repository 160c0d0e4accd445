"""Whole neurons and attention heads of transformers, which can be removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING, Self

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import Structure, UnitBudget
from steppe.core.selection import count

if TYPE_CHECKING:
    from steppe.method import Method

KINDS = ("neurons", "heads")
"""What `Layer.reads` may be."""
_STACKED = 8  # torch multiplies by stacked experts where their rows are multiples of 16 bytes


@Structure.registry.register("units")
@dataclass(frozen=True, kw_only=True)
class Units(Structure):
    """A unit is what one layer reads of a neuron, or of a key head with all its query heads.

    The layer is the one that writes into the residual stream: the down projection of a
    feed-forward part, the output projection of an attention. Where all of a unit is zero there, the
    rows that compute it (gate and up; queries, keys and values) do nothing, and go with it.

    Args:
        of: kinds of units: ``neurons``, ``heads``; ``"neurons+heads"`` has both.
        round_to: as many units as stay are a multiple of this, where there are more; of the
            neurons of stacked experts, a multiple of 8 too.

    Example:
        >>> Structure.make("neurons+heads").of
        ('neurons', 'heads')
    """

    of: tuple[str, ...] = ("neurons",)
    round_to: int = 1
    name = "units"
    whole_inputs = True
    removes = "units"

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", tuple(self.of))
        if not self.of or not set(self.of) <= set(KINDS) or len(set(self.of)) < len(self.of):
            raise SteppeError(
                "structure units is of kinds of units, each once",
                got="+".join(map(str, self.of)) or "none",
                way_out=f"{', '.join(KINDS)}, or both: {'+'.join(KINDS)}",
            )
        if self.round_to < 1:
            raise SteppeError(
                "as many units stay as a multiple of round_to",
                got=f"round_to {self.round_to}",
                way_out="1, or what the hardware likes, as 32",
            )

    @classmethod
    def parse(cls, text: str) -> Self | None:
        kinds = tuple(text.split("+"))
        return cls(of=kinds) if set(kinds) <= set(KINDS) else None

    def fits(self, method: Method) -> None:
        if isinstance(method.budget, UnitBudget) and method.budget.uneven:
            raise SteppeError(
                "a config of transformers has one width for all blocks",
                got=f"structure {'+'.join(self.of)} with budget {method.budget.name}",
                consequence="no plain from_pretrained would load what is left",
                way_out="budget uniform",
            )

    def among(self, layers: Sequence[Layer]) -> list[Layer]:
        found = [layer for layer in layers if layer.reads in self.of]
        absent = [kind for kind in self.of if kind not in {layer.reads for layer in found}]
        if absent:
            raise SteppeError(
                "units are removed from models whose modules are known by their names",
                got=f"no {' and no '.join(absent)} that can be removed",
                way_out="another structure; or steppe.remove, which follows the computation",
            )
        return found

    def misfit(self, layer: Layer) -> tuple[str, str] | None:
        if layer.columns % layer.unit:
            return f"units of {layer.unit} inputs", f"{layer.columns} inputs"
        return None

    def count(self, layer: Layer, sparsity: float) -> int | None:
        units = layer.columns // layer.unit
        kept = units - count(sparsity, units)
        multiple = lcm(self.round_to, _STACKED) if layer.stacked else self.round_to
        if units > multiple:
            kept = max(round(kept / multiple), 1) * multiple
        return (units - max(kept, 1)) * (layer.shape[0] if layer.stacked else 1)

    def groups(self, weight: Tensor, layer: Layer) -> Tensor:
        rows, columns = self.units(layer)
        tiles = layer.flat(weight).reshape(rows, -1, columns, layer.unit)
        return tiles.transpose(1, 2).reshape(rows, columns, -1)

    def expand(self, keep: Tensor, layer: Layer) -> Tensor:
        rows, columns = self.units(layer)
        tiles = keep[:, None, :, None].expand(rows, layer.rows // rows, columns, layer.unit)
        return layer.unflat(tiles.reshape(layer.rows, layer.columns)).contiguous()

    def units(self, layer: Layer) -> tuple[int, int]:
        return (layer.shape[0] if layer.stacked else 1), layer.columns // layer.unit
