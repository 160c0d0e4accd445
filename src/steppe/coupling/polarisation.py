"""Norm scales are driven apart, to zero or to one common value."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.mask import apply_masks
from steppe.core.protocols import Coupling, Tensors
from steppe.core.step_context import StepContext


@Coupling.registry.register("polarisation")
@dataclass(frozen=True, kw_only=True)
class Polarisation(Coupling):
    """f + lam sum_i (t |gamma_i| - |gamma_i - mean|) over the scales of all norms, in [0, 1].

    The first term pulls all scales to zero, the second pushes them away from their mean, and both
    together to two values, of which zero is one. Scales are clamped to [0, 1] after each step.
    Those that are prunable count, entry by entry: coupled channels bring them along, single layers
    do not.

    Args:
        penalty: lam.
        t: how strong the pull to zero is; a larger one leaves fewer.
        detach: take the mean for a constant in the gradient.
        initial: set all scales to this before the first step (the paper trains from 0.5);
            negative leaves them as they are.

    Source: Zhuang et al., Neuron-level Structured Pruning using Polarization Regularizer,
    NeurIPS 2020.
    """

    penalty: float = 8e-5
    t: float = 1.2
    detach: bool = False
    initial: float = -1.0
    name = "polarisation"

    def __post_init__(self) -> None:
        if not (0.0 <= self.penalty < float("inf") and 0.0 <= self.t < float("inf")):
            raise SteppeError(
                "polarisation needs a finite penalty and t, neither below 0",
                got=f"penalty {self.penalty}, t {self.t}",
            )
        if self.initial > 1.0:
            raise SteppeError("scales lie in [0, 1]", got=f"initial {self.initial}")

    def init(self, context: StepContext) -> dict[str, Tensors]:
        weights, project = context.weights, context.project
        # a score that asks for what is not there fails now, not after the training
        project(weights, 0.0)
        if self.initial >= 0.0:
            for name in scales(weights):
                _write(weights[name], torch.full_like(weights[name], self.initial), name, context)
        return {}

    def add_gradient(self, context: StepContext) -> None:
        weights, grads = context.weights, context.grads
        names = scales(weights)
        if not names:
            return
        gamma = torch.cat([_movable(weights[n], n, context) for n in names])
        away = (gamma - gamma.mean()).sign()
        pull = self.t * gamma.sign() - away
        if not self.detach:  # d mean / d gamma_i = 1 / n
            pull += away.mean()
        sizes = [len(_movable(weights[n], n, context)) for n in names]
        for name, part in zip(names, pull.split(sizes), strict=True):
            if name in context.fixed:
                every = torch.zeros_like(grads[name])
                part = every.masked_scatter_(~context.fixed[name], part)
            grads[name].add_(part, alpha=self.penalty)

    def after_step(self, context: StepContext) -> None:
        weights = context.weights
        for name in scales(weights):
            _write(weights[name], weights[name].clamp(0.0, 1.0), name, context)

    def finish(self, context: StepContext) -> Tensors:
        weights, project = context.weights, context.project
        masks = project(weights, context.sparsity)
        apply_masks(weights, masks)
        return masks


def _movable(scale: Tensor, name: str, context: StepContext) -> Tensor:
    """The entries of channels that can go: they have a say in the mean."""
    return scale[~context.fixed[name]] if name in context.fixed else scale


def _write(scale: Tensor, value: Tensor, name: str, context: StepContext) -> None:
    """Put values where channels can go."""
    fixed = context.fixed.get(name)
    scale.copy_(value if fixed is None else torch.where(fixed, scale, value))


def scales(weights: Tensors) -> list[str]:
    """Which of the weights are scales of norms: vectors called weight.

    Example:
        >>> ones = torch.ones(3)
        >>> scales({"bn.weight": ones, "bn.bias": ones, "conv.weight": ones.view(3, 1)})
        ['bn.weight']
    """
    return [n for n, w in weights.items() if w.ndim == 1 and n.endswith("weight")]
