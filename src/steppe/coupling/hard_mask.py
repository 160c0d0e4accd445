"""Pruned weights are zero from then on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from steppe.core.mask import apply_masks
from steppe.core.moment import Moment, Project
from steppe.core.part import Coupling, Tensors
from steppe.core.problem import Problem


@Coupling.registry.register("hard_mask")
@dataclass(frozen=True, kw_only=True)
class HardMask(Coupling):
    """w <- m * w after every step; a weight that is gone never returns (masks are nested).

    The mask is chosen anew, among the weights that remain, when the schedule says so.
    Source: Zhu & Gupta 2017. The optimiser's momentum of masked weights is left alone.
    """

    name = "hard_mask"
    scopes = ("task", "block", "layer")
    scores_when_due = True
    trains = False

    def solve(self, problem: Problem) -> tuple[Tensor, Tensor]:
        mask = problem.choose(problem.saliency(problem.weight), problem.prune)
        return problem.weight.masked_fill(~mask, 0.0), mask

    def init(self, weights: Tensors, project: Project, moment: Moment) -> dict[str, Tensors]:
        masks = project(weights, moment.sparsity)
        apply_masks(weights, masks)
        return {"mask": masks}

    def after_step(
        self,
        weights: Tensors,
        state: dict[str, Tensors],
        project: Project,
        moment: Moment,
    ) -> None:
        apply_masks(weights, state["mask"])
        if moment.due:
            state["mask"] = project(weights, moment.sparsity, within=state["mask"])
            apply_masks(weights, state["mask"])

    def restarted(self, weights: Tensors, state: dict[str, Tensors]) -> None:
        apply_masks(weights, state["mask"])

    def finish(
        self,
        weights: Tensors,
        state: dict[str, Tensors],
        project: Project,
        sparsity: float,
    ) -> Tensors:
        masks = project(weights, sparsity, within=state["mask"])
        apply_masks(weights, masks)
        return masks
