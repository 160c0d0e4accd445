"""Pruned weights are zero from then on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer_problem import LayerProblem
from steppe.core.mask import apply_masks
from steppe.core.protocols import AnyCoupling, Coupling, LayerSolver, Tensors
from steppe.core.step_context import StepContext

if TYPE_CHECKING:
    from steppe.method import Method


@AnyCoupling.registry.register("hard_mask")
@dataclass(frozen=True, kw_only=True)
class HardMask(Coupling, LayerSolver):
    """w <- m * w after every step; a weight that is gone never returns (masks are nested).

    The mask is chosen anew, among the weights that remain, when the schedule says so.

    Args:
        compensate: whether the weights that stay are changed to make up for those that go; the
            score must know how (kfac).
        shift: whether what reads coupled channels takes over the means of those that go, W_gone
            E[a_gone], in its bias or in the running mean of the batch norm behind it. Of a
            convolution all kernel positions count, which is exact but for padded borders.

    Source: Zhu & Gupta 2017; Berisha et al. 2025 (arXiv 2507.12988) for the shift. The
    optimiser's momentum of masked weights is left alone. Budgets that try channels out see them
    without the shift.
    """

    compensate: bool = False
    shift: bool = False

    name = "hard_mask"
    scores_when_due = True
    trains = False
    nested = True

    @property
    def elementwise(self) -> bool:
        return not (self.compensate or self.shift)

    @property
    def shifts_by(self) -> str:
        return "input_moments" if self.shift else ""

    def fits(self, method: Method) -> None:
        if self.shift and (not method.structure.whole_outputs or method.objective.scope == "layer"):
            raise SteppeError(
                "hard_mask shifts the means of coupled channels, in a loop of steps",
                got=f"structure {method.structure.name}, objective {method.objective.name}",
                way_out="structure channel with groups=steppe.channel_groups(model, x) and "
                "objective task, or shift false",
            )
        if not self.compensate:
            return
        where = f"score {method.score.name}, structure {method.structure.name}"
        trained = method.objective.scope != "layer" and not method.structure.whole_outputs
        if not (method.score.compensates and trained):
            raise SteppeError(
                "hard_mask compensates with a score that knows how, single weights or blocks, in "
                "a loop of steps",
                got=f"{where}, objective {method.objective.name}",
                way_out="score kfac; or coupling obs_update for objective layer",
            )

    def solve(self, problem: LayerProblem) -> tuple[Tensor, Tensor]:
        mask = problem.select(problem.saliency(problem.weight), problem.prune)
        return problem.weight.masked_fill(~mask, 0.0), mask

    def init(self, context: StepContext) -> dict[str, Tensors]:
        weights, project = context.weights, context.project
        masks = project(weights, context.sparsity)
        self._cut(context, masks)
        return {"mask": masks}

    def after_step(self, context: StepContext) -> None:
        weights, state, project = context.weights, context.state, context.project
        apply_masks(weights, state["mask"])
        if context.due:
            state["mask"] = project(weights, context.sparsity, within=state["mask"])
            self._cut(context, state["mask"])

    def restarted(self, context: StepContext) -> None:
        weights, state = context.weights, context.state
        apply_masks(weights, state["mask"])

    def alive(self, weights: Tensors, state: Mapping[str, Tensors]) -> Tensors:
        return state.get("mask", {})

    def finish(self, context: StepContext) -> Tensors:
        weights, state, project = context.weights, context.state, context.project
        masks = project(weights, context.sparsity, within=state["mask"])
        self._cut(context, masks)
        return masks

    def _cut(self, context: StepContext, masks: Tensors) -> None:
        if self.compensate:
            context.project.compensate(context.weights, masks)
        elif self.shift:
            context.project.shift(context.weights, masks, context.beside)
        else:
            apply_masks(context.weights, masks)
