"""What scores share that look at one statistic of units, which only some couplings provide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.protocols import Score

if TYPE_CHECKING:
    from steppe.method import Method


@dataclass(frozen=True, kw_only=True)
class ProvidedScore(Score):
    """The one statistic that it needs, the same for all weights of a unit."""

    ranks: ClassVar[str] = ""
    """What it is for, in words."""
    parts: ClassVar[str] = ""
    """The coupling and the structure that it goes with, in words."""

    def fits(self, method: Method) -> None:
        solver = method.solver
        if solver is None or not set(self.needs) <= set(solver.provides):
            raise SteppeError(
                f"score {self.name} ranks {self.ranks}",
                got=f"coupling {method.coupling.name}, structure {method.structure.name}",
                way_out=self.parts,
            )

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        (need,) = self.needs
        return stats[need].to(weight.dtype).expand_as(weight)

    def reduce(self, groups: Tensor) -> Tensor:
        return groups.abs().amax(dim=-1)
