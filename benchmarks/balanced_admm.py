"""ADMM whose penalty is balanced by its residuals: an alternative that the penalty study tries."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from steppe.core.norm import global_norm
from steppe.core.protocols import Coupling, Tensors
from steppe.core.step_context import StepContext
from steppe.coupling.admm import Admm, compact
from steppe.coupling.admm.rounding import Rounding

APART, FACTOR = 10.0, 2.0


@Coupling.registry.register("balanced_admm")
@dataclass(frozen=True, kw_only=True)
class BalancedAdmm(Admm):
    """The penalty doubles where ||x - z|| > 10 ||z - z_old||, and halves the other way round.

    After each dual update; u is divided by what the penalty is multiplied with, so that the
    unscaled multiplier stays.

    Source: Boyd et al. 2011, section 3.4.1.
    """

    penalty: float = 0.03
    interval: int = 8
    name = "balanced_admm"

    def init(self, context: StepContext) -> dict[str, Tensors]:
        start = torch.tensor(float(self.penalty), dtype=torch.float64)
        return super().init(context) | {"balance": {"penalty": start}}

    def add_gradient(self, context: StepContext) -> None:
        lam = float(context.state["balance"]["penalty"])
        for name, x in context.weights.items():
            context.grads[name].add_(compact.apart(context.state, name, x), alpha=lam)

    def after_step(self, context: StepContext) -> None:
        state, weights = context.state, context.weights
        old = {name: compact.sparse_copy(state, name) for name in weights}
        super().after_step(context)
        if context.step % self.interval != self.interval - 1:
            return
        z = {name: compact.sparse_copy(state, name) for name in weights}
        primal = float(global_norm([weights[n] - z[n] for n in z]))
        dual = float(global_norm([old[n] - z[n] for n in z]))
        times = FACTOR if primal > APART * dual else 1 / FACTOR if dual > APART * primal else 1.0
        state["balance"]["penalty"] *= times
        compact.rescale(context, 1 / times, Rounding(None, 0))
