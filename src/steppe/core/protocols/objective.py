"""The protocol of the objective axis: what is optimised?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor, nn

from steppe.core.batch import Batch
from steppe.core.errors import SteppeError
from steppe.core.part import Part, axis
from steppe.core.protocols.coupling import Coupling, LayerSolver
from steppe.core.protocols.score import Score

if TYPE_CHECKING:
    from steppe.method import Method


class Objective(Part):
    """What is optimised: the loss of a batch, of what, and where it starts.

    Under scope ``task`` a training loop optimises the whole model; under ``block`` each decoder
    block is optimised towards the outputs of the dense one, under ``layer`` each layer is solved
    at once.
    """

    registry = axis("objective")
    scope: ClassVar[Literal["task", "block", "layer"]] = "task"
    """What is optimised at a time: the whole model (task), a decoder block, or one layer."""
    reads: ClassVar[tuple[str, ...]] = ("task_loss",)
    """The fields of `Batch` that `loss` looks at; without one of them training is refused."""

    def loss(self, batch: Batch) -> Tensor:
        """The loss of a batch, a scalar; a pure function of the fields named in ``reads``."""
        raise NotImplementedError

    def reference(self, model: nn.Module) -> nn.Module | None:
        """The network whose outputs the loss is compared with, if it needs one.

        Args:
            model: the network before anything is changed.

        Returns:
            A network of its own, in eval mode, that is not trained; its outputs become
            ``Batch.reference_outputs``.
        """
        return None

    @property
    def stages(self) -> Literal["block", "children", "sublayers"]:
        """What of a block is optimised at a time, for scope ``block``.

        ``block``: all of it, towards the dense block's outputs. ``children``: its children one
        after the other, each from its own inputs towards the dense child's outputs for them.
        ``sublayers``: its residual sub-layers (attention, then feed-forward) one after the other,
        each with its norm towards the residual stream behind it.
        """
        return "block"

    @property
    def starts_from(self) -> LayerSolver | None:
        """What solves a block's layers before it is optimised; None starts dense."""
        return None

    @property
    def start_needs(self) -> tuple[str, ...]:
        """Calibration statistics that the start reads."""
        solver = self.starts_from
        if solver is None:
            return ()
        score = Score.make(solver.ranks_by).needs if solver.ranks_by else ()
        return tuple(sorted({*solver.needs, *score} - set(solver.provides)))

    def judged_on(self, windows: int) -> int:
        """Of so many calibration windows, how many a block's training does not see.

        If it does not lower the error on them, the block keeps the weights that it started from.
        """
        return 0

    def fits(self, method: Method) -> None:
        kind = LayerSolver if self.scope == "layer" else Coupling
        if not isinstance(method.coupling, kind):
            works = "layer" if isinstance(method.coupling, LayerSolver) else "task or block"
            raise SteppeError(
                f"coupling {method.coupling.name} works under {works} objectives",
                got=f"objective {self.name}",
                way_out="choose another objective, or another coupling",
            )
