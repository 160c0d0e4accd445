"""Dimensions of the residual stream of language models, which are removed."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import TYPE_CHECKING

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import Objective, Structure, UnitBudget
from steppe.core.selection import count

if TYPE_CHECKING:
    from steppe.method import Method


@Structure.registry.register("hidden")
@dataclass(frozen=True, kw_only=True)
class Hidden(Structure):
    """A unit is a dimension of the residual stream, in all tensors that write, norm or read it.

    Sparsity counts dimensions: the hidden size of the config is smaller afterwards. Heads and
    neurons stay as many and as wide as they are.

    Seen alone, a layer loses none; a unit of it is an input.

    Args:
        round_to: as many dimensions as stay are a multiple of this, where there are more; of
            those that stacked experts read, of 8 too.

    Example:
        >>> Structure.make({"name": "hidden", "round_to": 32}).stays(256, 0.3)
        192
    """

    round_to: int = 1
    name = "hidden"
    removes = "hidden"

    def __post_init__(self) -> None:
        if self.round_to < 1:
            raise SteppeError(
                "as many dimensions stay as a multiple of round_to",
                got=f"round_to {self.round_to}",
                way_out="1, or what the hardware likes, as 32",
            )

    def fits(self, method: Method) -> None:
        budget = method.budget
        if not isinstance(budget, UnitBudget):
            return  # of coupled channels only, which says so itself
        if budget.uneven or not budget.layerwise:
            raise SteppeError(
                "all blocks share one residual stream, of one width",
                got=f"structure hidden with budget {budget.name}",
                way_out="budget uniform",
            )
        objective = [p for p in (method.objective, *method.language) if isinstance(p, Objective)][
            -1
        ]
        solver = method.solver
        knows = solver is not None and "norm_output" in solver.provides
        if objective.scope != "layer" or method.calibration_needs or not knows:
            raise SteppeError(
                "dimensions are ranked by what the norms of their stream give, or at random",
                got=f"score {method.score.name} with coupling {method.coupling.name} and objective "
                f"{objective.name}",
                way_out="method hidden",
            )

    def stays(self, width: int, sparsity: float, multiple: int = 1) -> int:
        kept, step = width - count(sparsity, width), lcm(self.round_to, multiple)
        if width > step:
            kept = min(max(round(kept / step), 1) * step, width)
        return max(kept, 1)

    def count(self, layer: Layer, sparsity: float) -> int | None:
        return 0  # of a layer by itself: it is narrowed with the stream

    def groups(self, weight: Tensor, layer: Layer) -> Tensor:
        return layer.flat(weight).t()[None]

    def expand(self, keep: Tensor, layer: Layer) -> Tensor:
        return layer.unflat(keep.expand(layer.rows, layer.columns)).contiguous()

    def units(self, layer: Layer) -> tuple[int, int]:
        return 1, layer.columns
