"""Batch-norm statistics: frozen in the second pass, re-estimated after a projection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


def _norms(model: nn.Module) -> list[_NormBase]:
    return [m for m in model.modules() if isinstance(m, _NormBase) and m.track_running_stats]


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Within it, batch norm normalises by the batch and leaves its running statistics alone.

    Example:
        >>> bn = nn.BatchNorm1d(2)
        >>> with frozen_statistics(bn): _ = bn(torch.randn(8, 2))
        >>> int(bn.num_batches_tracked)
        0
    """
    training = [m for m in _norms(model) if m.training]
    for norm in training:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in training:
            norm.track_running_stats = True


@torch.no_grad()
def reestimate(
    model: nn.Module,
    batches: Iterable[Tensor],
    forward: Callable[[nn.Module, Tensor], object] = lambda model, x: model(x),
) -> int:
    """Running mean and variance anew, as the plain average over the batches; weights untouched.

    Pruning changes every layer's activations, so the statistics gathered while training no
    longer describe them. Averaging (momentum None) has no trace of the old ones, unlike the
    exponential mean of the SAFE authors' code, which keeps 0.9^79 of it.

    Args:
        model: the network; its mode is restored.
        batches: inputs, as in training.
        forward: how the model is called.

    Returns:
        How many batches were used; 0 when the model has no batch norm.
    """
    norms = _norms(model)
    if not norms:
        return 0
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    used = 0
    try:
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        for batch in batches:
            forward(model, batch)
            used += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    assert used, "no batch to estimate batch-norm statistics from"
    return used
