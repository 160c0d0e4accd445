"""The protocol of the objective axis: against what?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from steppe.core.errors import SteppeError
from steppe.core.part import Part, axis
from steppe.core.protocols.coupling import Coupling, LayerSolver

if TYPE_CHECKING:
    from steppe.method import Method


class Objective(Part):
    """Against what is the loss measured?"""

    registry = axis("objective")
    scope: ClassVar[str] = "task"
    """What is optimised at a time: the whole model (task), a decoder block, or one layer."""

    def fits(self, method: Method) -> None:
        kind = LayerSolver if self.scope == "layer" else Coupling
        if not isinstance(method.coupling, kind):
            works = "layer" if isinstance(method.coupling, LayerSolver) else "task or block"
            raise SteppeError(
                f"coupling {method.coupling.name} works under {works} objectives",
                got=f"objective {self.name}",
                way_out="choose another objective, or another coupling",
            )
