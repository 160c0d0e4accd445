"""What the scores of experts share: one number for each, from what its mixture computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.protocols import Score

if TYPE_CHECKING:
    from steppe.method import Method


@dataclass(frozen=True, kw_only=True)
class ExpertScore(Score):
    """The one statistic that it needs, the same for all weights of an expert."""

    def fits(self, method: Method) -> None:
        solver = method.solver
        if solver is None or not set(self.needs) <= set(solver.provides):
            raise SteppeError(
                f"score {self.name} ranks the experts of mixtures, whose tokens others take over",
                got=f"coupling {method.coupling.name}, structure {method.structure.name}",
                way_out="coupling reroute and structure experts, as method reap has them",
            )

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        (need,) = self.needs
        return stats[need].to(weight.dtype).expand_as(weight)

    def reduce(self, groups: Tensor) -> Tensor:
        return groups.abs().amax(dim=-1)
