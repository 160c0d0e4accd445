"""Projected at every step; weights may return (iterative hard thresholding)."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.mask import apply_masks
from steppe.core.protocols import Coupling, Tensors
from steppe.core.step_context import StepContext


@Coupling.registry.register("project")
@dataclass(frozen=True, kw_only=True)
class Projected(Coupling):
    """w <- P_d(w + optimiser's step) with d from the schedule. No mask is kept.

    Source: Blumensath & Davies 2009 (IHT), with the schedule of SAFE's baseline.
    """

    name = "project"

    @property
    def elementwise(self) -> bool:
        return True

    def after_step(self, context: StepContext) -> None:
        weights, project = context.weights, context.project
        apply_masks(weights, project(weights, context.sparsity))

    def finish(self, context: StepContext) -> Tensors:
        weights, project = context.weights, context.project
        masks = project(weights, context.sparsity)
        apply_masks(weights, masks)
        return masks
