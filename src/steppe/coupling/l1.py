"""The sum of absolute values is penalised: LASSO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from steppe.core.errors import SteppeError, unknown
from steppe.core.mask import apply_masks
from steppe.core.protocols import Coupling, Tensors
from steppe.core.step_context import StepContext

STEPS = ("proximal", "subgradient")


@Coupling.registry.register("l1")
@dataclass(frozen=True, kw_only=True)
class L1(Coupling):
    """min f(x) + alpha ||x||_1.

    ``proximal``: after each step x <- sign(x) max(|x| - eta alpha, 0), where eta is the
    optimiser's own step for each weight: the learning rate over 1 - momentum, or over Adam's
    preconditioner, so that the fixed point is the penalised minimum. Makes exact zeros.
    ``subgradient``: g += alpha sign(x) before it, as most codes do; hardly makes any.

    At the end what the sparsity asks for beyond the zeros goes, the smallest first.

    Args:
        alpha: the penalty.
        step: proximal or subgradient.

    Source: Tibshirani 1996; Daubechies et al. 2004 (proximal); Yun et al. 2021 (its metric).
    """

    alpha: float = 1e-4
    step: str = "proximal"
    name = "l1"
    strength = ("alpha",)

    def __post_init__(self) -> None:
        if self.step not in STEPS:
            raise unknown("step of l1", self.step, STEPS)
        if not 0.0 <= self.alpha < float("inf"):
            raise SteppeError("l1 needs a finite alpha >= 0", got=self.alpha)

    @property
    def needs_step_sizes(self) -> bool:
        return self.step == "proximal"

    def init(self, context: StepContext) -> dict[str, Tensors]:
        weights, project = context.weights, context.project
        if not context.sparsity:
            return {}
        masks = project(weights, context.sparsity)
        apply_masks(weights, masks)
        return {"mask": masks}

    def add_gradient(self, context: StepContext) -> None:
        weights, grads = context.weights, context.grads
        if self.step == "subgradient":
            signs = torch._foreach_sign(list(weights.values()))
            for name, sign in zip(weights, signs, strict=True):
                if name in context.fixed:
                    sign.masked_fill_(context.fixed[name], 0.0)
            torch._foreach_add_([grads[n] for n in weights], signs, alpha=self.alpha)

    def after_step(self, context: StepContext) -> None:
        weights, state, project = context.weights, context.state, context.project
        for name, size in context.step_sizes.items():
            x = weights[name]
            shrunk = (x.abs() - self.alpha * size).clamp_(min=0)
            # copysign would leave negative zeros
            shrunk.mul_(x.sign()).add_(0.0)
            fixed = context.fixed.get(name)
            x.copy_(shrunk if fixed is None else torch.where(fixed, x, shrunk))
        if "mask" in state:
            apply_masks(weights, state["mask"])
        if context.due and not context.last:  # the last cut is finish's, and told
            state["mask"] = project(weights, context.sparsity, within=state.get("mask"))
            apply_masks(weights, state["mask"])

    def restarted(self, context: StepContext) -> None:
        weights, state = context.weights, context.state
        apply_masks(weights, state["mask"])

    def alive(self, weights: Tensors, state: Mapping[str, Tensors]) -> Tensors:
        return state.get("mask", {})

    def finish(self, context: StepContext) -> Tensors:
        weights, state, project = context.weights, context.state, context.project
        masks = project(weights, context.sparsity, within=state.get("mask"))
        apply_masks(weights, masks)
        return masks
