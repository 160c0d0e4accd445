"""Whole neurons and attention heads of transformers, which can be removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING, Self

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import STACKED, Layer
from steppe.core.protocols import Objective, Structure, UnitBudget
from steppe.core.selection import count
from steppe.core.text import shares_gone

if TYPE_CHECKING:
    from steppe.method import Method

KINDS = ("neurons", "heads")
"""What `Layer.reads` may be."""


@Structure.registry.register("units")
@dataclass(frozen=True, kw_only=True)
class Units(Structure):
    """A unit is what one layer reads of a neuron, or of a key head with all its query heads.

    The layer is the one that writes into the residual stream: the down projection of a
    feed-forward part, the output projection of an attention. Where all of a unit is zero there, the
    rows that compute it (gate and up; queries, keys and values) do nothing, and go with it.

    Args:
        of: kinds of units: ``neurons``, ``heads``; ``"neurons+heads"`` has both.
        round_to: what stays is a multiple of it, where there is more; of stacked experts, of 8 too.
        keep: kind -> how many units of it stay in each block, whatever the sparsity is.

    Example:
        >>> both = Structure.make("neurons+heads")
        >>> layers = [Layer(kind, (4, 8), reads=kind) for kind in both.of]
        >>> both.gone(list(zip(layers, (0.5, 0.0), strict=True)))
        '50.00% of the neurons and no heads gone'
    """

    of: tuple[str, ...] = ("neurons",)
    round_to: int = 1
    keep: tuple[tuple[str, int], ...] = ()
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
        object.__setattr__(self, "keep", tuple(tuple(pair) for pair in self.keep))
        kept = {pair[0]: pair[-1] for pair in self.keep if len(pair) == 2 and pair[0] in self.of}
        numbers = [n for n in kept.values() if isinstance(n, int) and n >= 1]
        if len(numbers) < len(self.keep):
            raise SteppeError(
                "keep says for kinds of the structure how many units stay, one or more",
                got=repr([list(pair) for pair in self.keep]),
                way_out="keep: [[neurons, 504], [heads, 6]]",
            )

    @classmethod
    def parse(cls, text: str) -> Self | None:
        kinds = tuple(text.split("+"))
        return cls(of=kinds) if set(kinds) <= set(KINDS) else None

    def fits(self, method: Method) -> None:
        said, budget = f"structure {'+'.join(self.of)} with", method.budget
        if not isinstance(budget, UnitBudget):
            return  # of coupled channels only, which says so itself
        if budget.uneven or not budget.layerwise:
            raise SteppeError(
                "a config of transformers has one width for all blocks",
                got=f"{said} budget {budget.name}",
                consequence="no plain from_pretrained would load what is left",
                way_out="budget uniform",
            )
        every = (method.objective, *method.language)
        *_, objective = (part for part in every if isinstance(part, Objective))
        if objective.scope != "layer":
            raise SteppeError(
                "whole units of a language model go layer by layer, by what calibration saw",
                got=f"{said} objective {objective.name} and coupling {method.coupling.name}",
                way_out="method slim, or objective layer_reconstruction; or steppe remove for "
                "networks that are trained in a loop of steps",
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
        fit = layer.columns % layer.unit == 0
        return None if fit else (f"units of {layer.unit} inputs", f"{layer.columns} inputs")

    def count(self, layer: Layer, sparsity: float) -> int | None:
        units = layer.columns // layer.unit
        kept = dict(self.keep).get(layer.reads)
        if kept is None:
            kept = units - count(sparsity, units)
            multiple = lcm(self.round_to, STACKED) if layer.stacked else self.round_to
            if units > multiple:
                kept = min(max(round(kept / multiple), 1) * multiple, units)
        elif kept > units or (layer.stacked and kept < units and kept % STACKED):
            raise SteppeError(
                "no more units stay than there are"
                + f", of stacked experts a multiple of {STACKED}" * layer.stacked,
                got=f"{kept} {layer.reads}, of {units} in {layer.name}",
                way_out="fewer",
            )
        return (units - max(kept, 1)) * (layer.shape[0] if layer.stacked else 1)

    def gone(self, shares: Sequence[tuple[Layer, float]]) -> str:
        lost = {kind: [share for x, share in shares if x.reads == kind] for kind in self.of}
        return shares_gone(lost) or super().gone(shares)

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
