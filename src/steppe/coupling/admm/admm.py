"""A sparse copy z and a multiplier u pull the weights: ADMM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.mask import apply_masks
from steppe.core.protocols import Coupling, Tensors
from steppe.core.step_context import StepContext
from steppe.coupling.admm import compact, unmoved
from steppe.coupling.admm.automatic import AUTO, PULL, hasty, move, numbers
from steppe.coupling.admm.options import check
from steppe.coupling.admm.penalties import PENALTIES
from steppe.coupling.admm.rounding import Rounding


@Coupling.registry.register("admm")
@dataclass(frozen=True, kw_only=True)
class Admm(Coupling):
    """Scaled ADMM for min f(x) subject to ||x||_0 <= d.

    Starts with u = 0, z = P_d(x); after every ``interval`` steps ``z <- P_d(x + u)``,
    ``u <- u + x - z``; returns P_d(x). In between x is pulled towards z - u. z and u are kept as
    one tensor and a bit per weight.

    A number as penalty: ``g(x) += lam_t (x - z + u)`` before each step, lam_t = start + (penalty -
    start) curve(t / T). The pull goes through the optimiser (momentum, Adam's preconditioner), as
    in the authors' code; how far it moves the weights depends on optimiser, learning rate and T.

    ``auto``: the pull is a step of its own after the optimiser's, as the paper prints it,
    ``x <- x - (1 - exp(-a_t)) (x - z + u)``, with a_t proportional to curve((t + 1) / T) and
    sum_t a_t = ``pull`` whatever the number of steps, the optimiser and its learning rates.

    Args:
        penalty: lam, the pull's final strength, or auto.
        curve: how it grows over the run: constant, linear, cubic, cosine; of a number that starts
            above 0 also exponential, start (penalty / start)^(t / T).
        interval: K, steps between two dual updates; auto: round(T / 2400), at least 1.
        pull: all of the automatic pull: alone it would shrink x - z + u to exp(-pull) of it.
        start: lam at the start, of a number that is not constant.
        held: whether lam changes at dual updates only, after which it is held; u is then rescaled
            by old / new at once, so that lam u, the unscaled multiplier, stays.
        update_first: whether dual updates come after steps 0, K, 2 K; else K - 1, 2 K - 1.
        state_dtype: bfloat16 keeps x + u in 16 bits, rounded up or down by chance; None: as the
            weights.
        seed: of that chance.

    Source: Zhang et al. 2018; SAFE (ICML 2025), algorithm 1; ELSA (ICLR 2026).
    """

    penalty: float | str = AUTO
    curve: str = "cosine"
    interval: int | str = AUTO
    pull: float = PULL
    start: float = 0.0
    held: bool = False
    update_first: bool = False
    state_dtype: str | None = None
    seed: int = 0
    name = "admm"
    strength = ("penalty",)

    def __post_init__(self) -> None:
        check(self)

    @property
    def moves_weights(self) -> bool:
        return self.penalty == AUTO

    @property
    def elementwise(self) -> bool:
        return True

    @property
    def _rounding(self) -> Rounding:
        return Rounding(None if self.state_dtype is None else torch.bfloat16, self.seed)

    def init(self, context: StepContext) -> dict[str, Tensors]:
        masks = context.project(context.weights, context.sparsity)
        state = compact.begin(context.weights, masks, self._rounding)
        if AUTO in (self.penalty, self.interval):
            interval = None if isinstance(self.interval, str) else self.interval
            pull = self.pull if self.moves_weights else None
            # saved too: a run goes on as it began, whatever the constants are then
            state["run"] = numbers(interval, pull, self.curve, context.total)
        return state

    def taken_up(self, state: dict[str, Tensors]) -> dict[str, Tensors]:
        return compact.compacted(state)

    def readable(self, state: compact.State) -> compact.State:
        if "v" not in state:
            return state
        z, u = (compact.Unpacked(state, of) for of in (compact.sparse_copy, compact.multiplier))
        return {key: value for key, value in state.items() if key != "u"} | {"z": z, "u": u}

    def add_gradient(self, context: StepContext) -> None:
        if self.moves_weights:
            return
        lam = self._penalty(context.step, context)
        for name, x in context.weights.items():
            context.grads[name].add_(compact.apart(context.state, name, x), alpha=lam)

    def after_step(self, context: StepContext) -> None:
        if self.moves_weights:
            move(context, self.curve)
        unmoved.count(context)
        interval = self._interval(context)
        if context.step % interval != self._phase(interval):
            return
        resting = unmoved.resting(context, min(interval, context.step + 1))
        compact.renew(context, resting, self._rounding)
        if self.held:
            before, after = (self._penalty(context.step + i, context) for i in (0, 1))
            if before != after:
                compact.rescale(context, before / after, self._rounding)
        if "run" in context.state:
            context.state["run"]["updates"] += 1

    def _interval(self, context: StepContext) -> int:
        run = context.state.get("run", {})
        return int(run["interval"]) if isinstance(self.interval, str) else self.interval

    def _phase(self, interval: int) -> int:
        """t mod K of the steps that a dual update follows."""
        return 0 if self.update_first else interval - 1

    def _penalty(self, step: int, context: StepContext) -> float:
        """lam of a step; a held one is that of the last update before it."""
        assert not isinstance(self.penalty, str)
        if self.held:
            interval = self._interval(context)
            step = max(0, step - 1 - (step - 1 - self._phase(interval)) % interval)
        return PENALTIES[self.curve](self.start, self.penalty, step / context.total)

    def shown(self, state: Mapping[str, Mapping[str, Tensor]]) -> dict[str, float]:
        given = {"penalty": self.penalty, "interval": self.interval}
        numbers = {name: float(x) for name, x in given.items() if not isinstance(x, str)}
        run = {name: float(x) for name, x in state.get("run", {}).items() if name != "unit"}
        return numbers | run

    def idle(self, steps: int) -> list[str]:
        if isinstance(self.interval, str) or steps >= self.interval + self.update_first:
            return hasty(self.interval, self.pull, self.curve, steps) if self.moves_weights else []
        does = "does so after the first of them only" if self.update_first else "never does"
        return [
            f"the sparse copy is updated every {self.interval} steps, and a training of {steps} "
            f"steps {does}: the masks stay those of the weights at the start. Way out: interval "
            f"auto (--interval auto), or one of at most {max(1, steps - self.update_first)}"
        ]

    def finish(self, context: StepContext) -> Tensors:
        weights, project = context.weights, context.project
        masks = project(weights, context.sparsity)
        apply_masks(weights, masks)
        return masks
