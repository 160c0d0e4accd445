"""What a score may need to know of the data: statistics gathered while training."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from steppe.core.layer import Layer
from steppe.core.registry import Registry

STATISTICS: Registry[type[Statistic]] = Registry("statistic", "steppe.score")


@dataclasses.dataclass
class Statistic:
    """A running mean per weight, updated with the gradient at x of each step.

    The mean forgets with ``decay`` per step, so that it speaks of the present weights; its
    constant scale does not matter, as scores are only compared. ``prepare`` is called once,
    so a statistic over activations can hook the layers.
    """

    decay: float = 0.95
    values: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    name: ClassVar[str]

    @classmethod
    def shape(cls, weight: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a value for a weight of that shape; the weight's, over which it broadcasts."""
        return weight

    def prepare(self, modules: dict[str, tuple[Layer, nn.Module]]) -> None:
        """Called once before the first step with weight name -> (layer, module)."""

    def active(self, on: bool) -> None:
        """Told before and after each pass whether it is one to be observed (that at x is)."""

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        """Take in the gradient at x of one step."""
        raise NotImplementedError

    def mean_of(self, new: dict[str, Tensor]) -> None:
        """Let the running means take in the values of one step, for `observe`."""
        for name, value in new.items():
            self.values.setdefault(name, value.detach().clone())
        held = [self.values[name] for name in new]
        if not held:
            return
        torch._foreach_lerp_(held, list(new.values()), 1.0 - self.decay)


@dataclasses.dataclass
class Known(Statistic):
    """Values that were known before the first step and do not move."""

    name = "known"

    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        """Nothing is left to learn."""


@STATISTICS.register("gradient")
class Gradient(Statistic):
    """E[g], the mean gradient."""

    name = "gradient"

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        self.mean_of(grads)


@STATISTICS.register("squared_gradient")
class SquaredGradient(Statistic):
    """E[g^2], the diagonal of the empirical Fisher matrix of mini-batch gradients."""

    name = "squared_gradient"

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        listed = list(grads.values())
        self.mean_of(dict(zip(grads, torch._foreach_mul(listed, listed), strict=True)))


def _product(weights: dict[str, Tensor], grads: dict[str, Tensor], name: str) -> Tensor:
    """g w, in float32 at least: the product of two small halves is zero."""
    weight, grad = weights[name], grads[name]
    return weight * grad if weight.dtype == torch.float64 else weight.float() * grad.float()


@STATISTICS.register("absolute_product")
class AbsoluteProduct(Statistic):
    """E|g w| of each weight."""

    name = "absolute_product"

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        self.mean_of({name: _product(weights, grads, name).abs() for name in grads})


class _OfOutputs(Statistic):
    """What is the mean of something of s = sum over the weights of one output of g w.

    Values have one entry for each output and broadcast over the weight.
    """

    def prepare(self, modules: dict[str, tuple[Layer, nn.Module]]) -> None:
        self._dims: dict[str, tuple[int, ...]] = {}
        for name, (layer, module) in modules.items():
            inputs_first = layer.transposed or type(module).__name__ == "Conv1D"
            inputs_first = inputs_first and not isinstance(module, nn.Conv1d)
            inputs_first |= isinstance(
                module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
            )
            row = int(layer.stacked) + int(inputs_first)
            outputs = {row, 0} if layer.stacked else {row}
            self._dims[name] = tuple(d for d in range(len(layer.shape)) if d not in outputs)

    def _of(self, sums: Tensor) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        self.mean_of(
            {
                name: self._of(_product(weights, grads, name).sum(self._dims[name], keepdim=True))
                for name in grads
                if weights[name].ndim > 1
            }
        )


@STATISTICS.register("output_square")
class OutputSquare(_OfOutputs):
    """E[s^2] of each output, s = sum of g w over its weights in one batch."""

    name = "output_square"

    def _of(self, sums: Tensor) -> Tensor:
        return sums.square()


@STATISTICS.register("output_absolute")
class OutputAbsolute(_OfOutputs):
    """E|s| of each output, s = sum of g w over its weights in one batch."""

    name = "output_absolute"

    def _of(self, sums: Tensor) -> Tensor:
        return sums.abs()


@STATISTICS.register("gate_square")
class GateSquare(Statistic):
    """E[(gamma dgamma + beta dbeta)^2] of each norm's scale; a norm without shift has no beta."""

    name = "gate_square"

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        new = {}
        for name in grads:
            if weights[name].ndim > 1 or not name.endswith("weight"):
                continue
            gate = _product(weights, grads, name)
            shift = f"{name.removesuffix('weight')}bias"
            if shift in grads:
                gate = gate + _product(weights, grads, shift)
            new[name] = gate.square()
        self.mean_of(new)


@STATISTICS.register("activation_square")
class ActivationSquare(Statistic):
    """E[x_j^2] of each input j, shaped to broadcast over the weight (Sun et al. 2024).

    For a convolution j is an input channel: borders aside, every kernel position sees it.
    Grouped convolutions take each group's own inputs.
    """

    name = "activation_square"

    def prepare(self, modules: dict[str, tuple[Layer, nn.Module]]) -> None:
        self._on = False
        self._seen: dict[str, list[Tensor]] = {}
        for name, (layer, module) in modules.items():
            module.register_forward_pre_hook(self._hook(name, layer, module))

    def _hook(self, name: str, layer: Layer, module: nn.Module):  # type: ignore[no-untyped-def]
        groups = int(getattr(module, "groups", 1))
        convolution = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)

        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if not self._on:
                return
            x = args[0].detach().float()
            if not convolution:
                mean = x.reshape(-1, x.shape[-1]).square().mean(0)
                value = mean[:, None] if layer.transposed else mean[None]
            else:
                batched = x if x.ndim == len(layer.shape) else x[None]
                mean = batched.square().mean(dim=[0, *range(2, batched.ndim)])
                per_group = mean.reshape(groups, -1)
                value = per_group.repeat_interleave(layer.rows // groups, 0)
                value = value.reshape(*value.shape, *[1] * (len(layer.shape) - 2))
            self._seen.setdefault(name, []).append(value)

        return hook

    def active(self, on: bool) -> None:
        self._on = on
        if on:
            self._seen.clear()  # of a step that overflowed, which was not observed

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        new = {k: torch.stack(v).mean(0) for k, v in sorted(self._seen.items())}
        self._seen.clear()
        if dist.is_available() and dist.is_initialized():
            # gradients arrive averaged over the ranks, activations do not
            for value in new.values():
                dist.all_reduce(value)
                value /= dist.get_world_size()
        self.mean_of(new)
