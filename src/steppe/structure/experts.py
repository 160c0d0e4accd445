"""Whole experts of a mixture, which can be removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import Objective, Structure, UnitBudget
from steppe.core.selection import count

if TYPE_CHECKING:
    from steppe.method import Method

EXPERTS = "experts"
"""What the module of a mixture's experts is called, in whatever layout."""


@Structure.registry.register("experts")
@dataclass(frozen=True, kw_only=True)
class Experts(Structure):
    """A unit is one of the stacked matrices of a layer: an expert, by what it writes.

    Of each mixture the last stacked weight is ranked, the down projection, and each loses as many:
    a config has one number of experts. Of a layer without a stack a unit is an output.
    """

    name = "experts"
    whole_outputs = True
    removes = "experts"

    def fits(self, method: Method) -> None:
        budget = method.budget
        objective = [p for p in (method.objective, *method.language) if isinstance(p, Objective)][
            -1
        ]
        if not isinstance(budget, UnitBudget) or budget.uneven or not budget.layerwise:
            raise SteppeError(
                "a config of transformers has one number of experts for all mixtures",
                got=f"structure experts with budget {budget.name}",
                consequence="no plain from_pretrained would load what is left",
                way_out="budget uniform",
            )
        if objective.scope != "layer" or method.calibration_needs:
            raise SteppeError(
                "experts are ranked by what their mixture computes, or by their weights alone",
                got=f"score {method.score.name} with coupling {method.coupling.name} and objective "
                f"{objective.name}",
                way_out="method reap",
            )

    def among(self, layers: Sequence[Layer]) -> list[Layer]:
        last = {x.name.rpartition(".")[0]: x for x in layers if x.stacked}
        if not last:
            raise SteppeError(
                "experts are removed from models with mixtures of stacked experts",
                got="experts of a layout that is not known"
                if any(EXPERTS in layer.name.split(".") for layer in layers)
                else "a model without experts",
                way_out="method slim, which removes neurons and heads",
            )
        return list(last.values())

    def count(self, layer: Layer, sparsity: float) -> int | None:
        experts = self.units(layer)[0]
        return min(count(sparsity, experts), experts - 1)

    def gone(self, shares: Sequence[tuple[Layer, float]]) -> str:
        return f"{sum(share for _, share in shares) / len(shares):.2%} of the experts gone"

    def groups(self, weight: Tensor, layer: Layer) -> Tensor:
        return layer.flat(weight).reshape(self.units(layer)[0], 1, -1)

    def expand(self, keep: Tensor, layer: Layer) -> Tensor:
        experts = self.units(layer)[0]
        matrices = keep[:, None].expand(experts, layer.rows // experts, layer.columns)
        return layer.unflat(matrices.reshape(layer.rows, layer.columns)).contiguous()

    def units(self, layer: Layer) -> tuple[int, int]:
        return (layer.shape[0] if layer.stacked else layer.rows), 1
