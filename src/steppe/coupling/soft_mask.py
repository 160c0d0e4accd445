"""The forward pass sees masked weights, all weights are trained: soft masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from steppe.core.errors import SteppeError
from steppe.core.mask import apply_masks
from steppe.core.protocols import Coupling, Tensors
from steppe.core.step_context import StepContext


@Coupling.registry.register("soft_mask")
@dataclass(frozen=True, kw_only=True)
class SoftMask(Coupling):
    """The loss is that of m * w, its gradient moves w, masked entries included (straight-through).

    g(w) = g(m * w) + lam (1 - m) w. Whenever the schedule says so the mask is chosen from scratch,
    so that what was masked may return. The dense w lies in the coupling's state, m * w in the
    model. Of coupled channels only what reads them is masked: were the channel's own weights zero
    too, neither side would get a gradient. After the last step both are zero, which changes
    nothing in what the network computes.

    The optimiser's own weight decay sees m * w, and so leaves masked entries to lam.

    Args:
        decay: lam.

    Source: Humble et al., Soft Masking for Cost-Constrained Channel Pruning, ECCV 2022.
    """

    decay: float = 2e-4
    name = "soft_mask"

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < float("inf"):
            raise SteppeError("soft_mask needs a finite decay >= 0", got=self.decay)

    @property
    def elementwise(self) -> bool:
        return True

    def init(self, context: StepContext) -> dict[str, Tensors]:
        state = {"dense": {name: w.detach().clone() for name, w in context.weights.items()}}
        self._show(state, context)
        return state

    def _show(self, state: dict[str, Tensors], context: StepContext) -> None:
        """Choose the mask anew and put m * w into the model."""
        state["mask"] = context.project(state["dense"], context.sparsity)
        state["cut"] = context.project.cut(state["mask"])
        self._write(context.weights, state)

    def _write(self, weights: Tensors, state: dict[str, Tensors]) -> None:
        for name, weight in weights.items():
            weight.copy_(state["dense"][name])
        apply_masks(weights, state["cut"])

    def add_gradient(self, context: StepContext) -> None:
        grads, state = context.grads, context.state
        for name, dense in state["dense"].items():
            hidden = dense.masked_fill(state["cut"][name], 0.0)
            grads[name].add_(hidden, alpha=self.decay)

    def after_step(self, context: StepContext) -> None:
        weights, state = context.weights, context.state
        for name, weight in weights.items():
            # a masked entry was 0 before the step, so now it is the step
            dense = state["dense"][name]
            dense.copy_(torch.where(state["cut"][name], weight, dense + weight))
        if context.due:
            self._show(state, context)
        else:
            self._write(weights, state)
        if context.step + 1 == context.total:
            apply_masks(weights, state["mask"])

    def alive(self, weights: Tensors, state: Mapping[str, Tensors]) -> Tensors:
        return state.get("cut", {})

    def finish(self, context: StepContext) -> Tensors:
        weights, state, project = context.weights, context.state, context.project
        # within the mask that was trained last: the others' neighbours do not count on them
        masks = project(state["dense"], context.sparsity, within=state["mask"])
        apply_masks(weights, masks)
        return masks
