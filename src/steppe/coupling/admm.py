"""A sparse copy z and a multiplier u pull the weights: ADMM."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from steppe.core.curves import CURVES, curve
from steppe.core.errors import SteppeError, unknown
from steppe.core.mask import apply_masks
from steppe.core.protocols import Coupling, Tensors
from steppe.core.step_context import StepContext


@Coupling.registry.register("admm")
@dataclass(frozen=True, kw_only=True)
class Admm(Coupling):
    """Scaled ADMM for min f(x) subject to ||x||_0 <= d.

    ``g(x) += lam_t (x - z + u)`` before each step; after every ``interval`` steps
    ``z <- P_d(x + u)``, ``u <- u + x - z``. Starts with u = 0, z = P_d(x); returns P_d(x).
    lam_t = penalty * curve(t / T). The pull goes through the optimiser (momentum, Adam's
    preconditioner), as in the authors' code.

    Args:
        penalty: lam, the pull's final strength.
        curve: how it grows over the run: constant, linear, cubic, cosine.
        interval: K, steps between two dual updates.

    Source: Zhang et al. 2018; SAFE (ICML 2025), algorithm 1.
    """

    penalty: float = 1e-3
    curve: str = "constant"
    interval: int = 32
    name = "admm"
    strength = ("penalty",)

    def __post_init__(self) -> None:
        if not 0.0 <= self.penalty < float("inf") or self.interval < 1:
            raise SteppeError(
                "admm needs a finite penalty >= 0 and an interval of at least one step",
                got=f"penalty {self.penalty}, interval {self.interval}",
            )
        if self.curve not in CURVES:
            raise unknown("penalty schedule", self.curve, CURVES)

    def init(self, context: StepContext) -> dict[str, Tensors]:
        weights, project = context.weights, context.project
        z = {name: w.detach().clone() for name, w in weights.items()}
        apply_masks(z, project(weights, context.sparsity))
        return {"z": z, "u": {name: torch.zeros_like(w) for name, w in weights.items()}}

    def add_gradient(self, context: StepContext) -> None:
        weights, grads, state = context.weights, context.grads, context.state
        lam = self.penalty * curve(self.curve, context.step / context.total)
        pull = torch._foreach_sub(list(weights.values()), list(state["z"].values()))
        torch._foreach_add_(pull, list(state["u"].values()))
        torch._foreach_add_([grads[name] for name in weights], pull, alpha=lam)

    def after_step(self, context: StepContext) -> None:
        weights, state, project = context.weights, context.state, context.project
        if context.step % self.interval != self.interval - 1:
            return
        z, u = state["z"], state["u"]
        # a multiplier of what was never pulled would grow without end
        idle = {n: u[n].clone() for n, steps in context.quiet.items() if steps >= self.interval}
        # u becomes v = x + u, of which z takes the kept part and u the rest
        torch._foreach_add_(list(u.values()), list(weights.values()))
        masks = project(u, context.sparsity)
        torch._foreach_copy_(list(z.values()), list(u.values()))
        apply_masks(z, masks)
        torch._foreach_sub_(list(u.values()), list(z.values()))
        u.update(idle)

    def idle(self, steps: int) -> list[str]:
        if steps >= self.interval:
            return []
        return [
            f"coupling admm updates its sparse copy every {self.interval} steps, and a training of "
            f"{steps} steps never does: the masks stay those of the weights at the start"
        ]

    def finish(self, context: StepContext) -> Tensors:
        weights, project = context.weights, context.project
        masks = project(weights, context.sparsity)
        apply_masks(weights, masks)
        return masks
