"""The weights are left alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from steppe.core.protocols import Coupling, Tensors
from steppe.core.step_context import StepContext


@Coupling.registry.register("none")
@dataclass(frozen=True, kw_only=True)
class NoCoupling(Coupling):
    """Dense training: every weight stays."""

    name = "none"
    prunes = False

    @property
    def elementwise(self) -> bool:
        return True

    def finish(self, context: StepContext) -> Tensors:
        weights = context.weights
        return {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
