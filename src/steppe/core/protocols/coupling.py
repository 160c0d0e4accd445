"""The protocol of the coupling axis: how do the weights obey?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from steppe.core.part import Part, Tensors, axis
from steppe.core.step_context import Project, StepContext

if TYPE_CHECKING:
    from steppe.core.layer_problem import LayerProblem


class Coupling(Part):
    """How do the weights obey? Its state is a dict of named tensor dicts."""

    registry = axis("coupling")
    scopes: ClassVar[tuple[str, ...]] = ("task", "block")
    """Scopes of the objectives it works under: a loop of steps, or `solve` for ``layer``."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Calibration statistics that `solve` reads."""
    provides: ClassVar[tuple[str, ...]] = ()
    """Statistics of a score that `solve` derives itself."""
    scores_when_due: ClassVar[bool] = False
    """Whether scores matter only when the schedule says so; else at any step and at the end."""
    prunes: ClassVar[bool] = True
    """Whether `finish` leaves exactly the zeros that were asked for; else none."""
    trains: ClassVar[bool] = True
    """Whether the weights must be optimised for it to mean anything."""
    advice: ClassVar[str] = "train longer, cut in cycles or gradually (gmp)"
    """What to do when the last projection moves the weights far."""
    squares: ClassVar[int] = 4
    """Matrices of columns^2 that `solve` holds beside the gram, for estimates of memory."""

    def solve(self, problem: LayerProblem) -> tuple[Tensor, Tensor]:
        """Prune one layer at once from its calibration statistics.

        Returns:
            The new weights and the mask (True = kept), both ``[rows, columns]``; exactly
            ``problem.prune`` entries of the mask are False and the weights are 0 there.
        """
        raise NotImplementedError

    def init(self, weights: Tensors, project: Project, context: StepContext) -> dict[str, Tensors]:
        """The state before the first step; may change the weights in place."""
        return {}

    def add_gradient(
        self,
        weights: Tensors,
        grads: Tensors,
        state: dict[str, Tensors],
        context: StepContext,
    ) -> None:
        """Add the coupling's gradient at x to ``grads``, in place."""

    def after_step(
        self,
        weights: Tensors,
        state: dict[str, Tensors],
        project: Project,
        context: StepContext,
    ) -> None:
        """Act on the weights and the state after the optimiser's step, in place."""

    @property
    def watches(self) -> str:
        """What `StepContext.epoch` shall hold: ``epochs``, ``accuracy`` (and them), or nothing."""
        return ""

    @property
    def needs_step_sizes(self) -> bool:
        """Whether it reads ``StepContext.pace``."""
        return False

    def restarted(self, weights: Tensors, state: dict[str, Tensors]) -> None:
        """Act when a training begins anew after a cut, the weights rewound or not, in place."""

    def shown(self, state: Mapping[str, Tensors]) -> dict[str, float]:
        """What a person following the run wants to see of the state, by name."""
        return {}

    def finish(
        self,
        weights: Tensors,
        state: dict[str, Tensors],
        project: Project,
        sparsity: float,
    ) -> Tensors:
        """Make the weights exactly sparse, in place, and return the masks."""
        raise NotImplementedError
