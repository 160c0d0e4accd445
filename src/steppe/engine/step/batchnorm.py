"""Running statistics of norms, estimated anew after a projection."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase, _NormBase


def running_norms(model: nn.Module) -> dict[str, _NormBase]:
    """Name -> every norm of torch that keeps running statistics: batch, sync, instance, lazy.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.LayerNorm(2))
        >>> list(running_norms(model))
        ['0']
    """
    return {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, _NormBase) and m.track_running_stats
    }


@torch.no_grad()
def reestimate(
    model: nn.Module,
    batches: Iterable[Tensor],
    forward: Callable[[nn.Module, Tensor], object] = lambda model, x: model(x),
) -> int:
    """Running mean and variance anew, as the plain average over the batches; weights untouched.

    Pruning changes every layer's activations, so the statistics gathered while training no
    longer describe them. Averaging has no trace of the old ones, unlike the exponential mean of
    the SAFE authors' code, which keeps 0.9^79 of it. `running_norms` says whose they are.

    Args:
        model: the network; its mode is restored.
        batches: inputs, as in training.
        forward: how the model is called.

    Returns:
        How many batches were used; 0 when the model has no norm with running statistics.
    """
    norms = list(running_norms(model).values())
    if not norms:
        return 0
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    hooks = [n.register_forward_pre_hook(_Average()) for n in norms if not _averages(n)]
    used = 0
    try:
        model.eval()
        for norm in norms:
            if not (isinstance(norm, _LazyNormBase) and norm.has_uninitialized_params()):
                norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for batch in batches:
            forward(model, batch)
            used += 1
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    assert used, "no batch to estimate running statistics from"
    return used


def _averages(norm: _NormBase) -> bool:
    """Whether it takes a momentum of None for the plain average; instance norm takes it for 0."""
    return isinstance(norm, _BatchNorm)


class _Average:
    """Makes the n-th call of a norm count 1 / n."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, norm: Any, inputs: Any) -> None:
        self._calls += 1
        norm.momentum = 1.0 / self._calls


def __getattr__(name: str) -> object:
    """The former name of what keeps a second pass from moving statistics."""
    if name != "frozen_statistics":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from steppe.engine.step.buffers import restored_buffers

    warnings.warn(
        "frozen_statistics is now called restored_buffers (steppe.engine.step.buffers)",
        DeprecationWarning,
        stacklevel=2,
    )
    return restored_buffers
