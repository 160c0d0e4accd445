"""A sparse copy z and a multiplier u pull the weights: ADMM."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from steppe.core.curves import CURVES, curve
from steppe.core.errors import SteppeError, unknown
from steppe.core.mask import apply_masks
from steppe.core.protocols import Coupling, Tensors
from steppe.core.step_context import StepContext
from steppe.coupling.admm.automatic import AUTO, PULL, hasty, move, numbers


@Coupling.registry.register("admm")
@dataclass(frozen=True, kw_only=True)
class Admm(Coupling):
    """Scaled ADMM for min f(x) subject to ||x||_0 <= d.

    Starts with u = 0, z = P_d(x); after every ``interval`` steps ``z <- P_d(x + u)``,
    ``u <- u + x - z``; returns P_d(x). In between x is pulled towards z - u.

    A number as penalty: ``g(x) += lam_t (x - z + u)`` before each step, lam_t = penalty *
    curve(t / T). The pull goes through the optimiser (momentum, Adam's preconditioner), as in the
    authors' code; how far it moves the weights depends on optimiser, learning rate and T.

    ``auto``: the pull is a step of its own after the optimiser's, as the paper prints it,
    ``x <- x - (1 - exp(-a_t)) (x - z + u)``, with a_t proportional to curve((t + 1) / T) and
    sum_t a_t = ``pull`` whatever the number of steps, the optimiser and its learning rates.

    Args:
        penalty: lam, the pull's final strength, or auto.
        curve: how it grows over the run: constant, linear, cubic, cosine.
        interval: K, steps between two dual updates; auto: round(T / 2400), at least 1.
        pull: all of the automatic pull: alone it would shrink x - z + u to exp(-pull) of it.

    Source: Zhang et al. 2018; SAFE (ICML 2025), algorithm 1.
    """

    penalty: float | str = AUTO
    curve: str = "cosine"
    interval: int | str = AUTO
    pull: float = PULL
    name = "admm"
    strength = ("penalty",)

    def __post_init__(self) -> None:
        if not (_auto_or(self.penalty, 0) and _auto_or(self.interval, 1)):
            raise SteppeError(
                "admm needs a finite penalty >= 0 and an interval of at least one step, or auto",
                got=f"penalty {self.penalty}, interval {self.interval}",
            )
        if not 0.0 < self.pull < math.inf or (self.pull != PULL and not self.moves_weights):
            raise SteppeError(
                "pull is a finite number above 0, and belongs to penalty auto",
                got=f"pull {self.pull}, penalty {self.penalty}",
                way_out="penalty auto, or leave out the pull",
            )
        if self.curve not in CURVES:
            raise unknown("penalty schedule", self.curve, CURVES)

    @property
    def moves_weights(self) -> bool:
        return self.penalty == AUTO

    @property
    def elementwise(self) -> bool:
        return True

    def init(self, context: StepContext) -> dict[str, Tensors]:
        weights, project = context.weights, context.project
        z = {name: w.detach().clone() for name, w in weights.items()}
        apply_masks(z, project(weights, context.sparsity))
        state = {"z": z, "u": {name: torch.zeros_like(w) for name, w in weights.items()}}
        if AUTO in (self.penalty, self.interval):
            interval = None if isinstance(self.interval, str) else self.interval
            pull = self.pull if self.moves_weights else None
            # saved too: a run goes on as it began, whatever the constants are then
            state["run"] = numbers(interval, pull, self.curve, context.total)
        return state

    def add_gradient(self, context: StepContext) -> None:
        weights, grads, state = context.weights, context.grads, context.state
        if isinstance(self.penalty, str):
            return
        lam = self.penalty * curve(self.curve, context.step / context.total)
        pull = torch._foreach_sub(list(weights.values()), list(state["z"].values()))
        torch._foreach_add_(pull, list(state["u"].values()))
        torch._foreach_add_([grads[name] for name in weights], pull, alpha=lam)

    def after_step(self, context: StepContext) -> None:
        weights, state, project = context.weights, context.state, context.project
        if self.moves_weights:
            move(context, self.curve)
        still = _count_still(context)
        run = state.get("run", {})
        interval = int(run["interval"]) if isinstance(self.interval, str) else self.interval
        if context.step % interval != interval - 1:
            return
        z, u = state["z"], state["u"]
        # a multiplier of what was not moved since the last update would grow without end
        unmoved = {n for n, t in still.items() if int(t) >= interval}
        unmoved |= {n for n, steps in context.quiet.items() if steps >= interval}
        idle = {n: u[n].clone() for n in unmoved}
        # u becomes v = x + u, of which z takes the kept part and u the rest
        torch._foreach_add_(list(u.values()), list(weights.values()))
        masks = project(u, context.sparsity)
        torch._foreach_copy_(list(z.values()), list(u.values()))
        apply_masks(z, masks)
        torch._foreach_sub_(list(u.values()), list(z.values()))
        u.update(idle)
        if run:
            run["updates"] += 1

    def shown(self, state: Mapping[str, Tensors]) -> dict[str, float]:
        given = {"penalty": self.penalty, "interval": self.interval}
        numbers = {name: float(x) for name, x in given.items() if not isinstance(x, str)}
        run = {name: float(x) for name, x in state.get("run", {}).items() if name != "unit"}
        return numbers | run

    def idle(self, steps: int) -> list[str]:
        if isinstance(self.interval, str) or steps >= self.interval:
            return hasty(self.interval, self.pull, self.curve, steps) if self.moves_weights else []
        return [
            f"coupling admm updates its sparse copy every {self.interval} steps, and a training of "
            f"{steps} steps never does: the masks stay those of the weights at the start. Way "
            f"out: interval auto, or one of at most {steps}"
        ]

    def finish(self, context: StepContext) -> Tensors:
        weights, project = context.weights, context.project
        masks = project(weights, context.sparsity)
        apply_masks(weights, masks)
        return masks


def _count_still(context: StepContext) -> Tensors:
    """Name -> for how many steps a weight has not moved; those that just did are left out."""
    before = context.state.get("still", {})
    names = [n for n in context.weights if n not in context.moved]
    if not names:  # as in most runs, whose state has no such entry
        context.state.pop("still", None)
        return {}
    still = {n: before.get(n, torch.tensor(0)) + 1 for n in names}
    context.state["still"] = still
    return still


def _auto_or(value: float | str, least: float) -> bool:
    return value == AUTO if isinstance(value, str) else least <= value < math.inf
