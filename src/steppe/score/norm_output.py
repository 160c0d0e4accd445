"""What the norms of a residual stream give of a dimension."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.protocols import Score

if TYPE_CHECKING:
    from steppe.method import Method


@Score.registry.register("norm_output")
@dataclass(frozen=True, kw_only=True)
class NormOutput(Score):
    """E|n_j(x)| over tokens x, n the output of a norm of the residual stream; mean over the norms.

    Source: the embedding channels of Minitron (Muralidharan et al. 2024, arXiv 2407.14679).
    """

    name = "norm_output"
    needs = ("norm_output",)

    def fits(self, method: Method) -> None:
        solver = method.solver
        if solver is None or not set(self.needs) <= set(solver.provides):
            raise SteppeError(
                f"score {self.name} ranks the dimensions of a residual stream",
                got=f"coupling {method.coupling.name}, structure {method.structure.name}",
                way_out="coupling reread and structure hidden, as method hidden has them",
            )

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return stats["norm_output"].to(weight.dtype).expand_as(weight)

    def reduce(self, groups: Tensor) -> Tensor:
        return groups.abs().amax(dim=-1)
