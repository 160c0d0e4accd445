"""The size of an optimiser's steps, weight by weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steppe.core.errors import SteppeError
from steppe.core.protocols import Tensors
from steppe.engine.step.optimizers import Optimizers


def _over(rate: float, root: Tensor) -> Tensor:
    return rate / root


def _sgd(group: dict[str, Any], state: dict[str, Any], p: Tensor) -> Tensor:
    gain = (1.0 - group["dampening"]) / (1.0 - group["momentum"])
    rate = group["lr"] * (gain if group["momentum"] else 1.0)
    return torch.as_tensor(rate, dtype=p.dtype, device=p.device)


def _adam(group: dict[str, Any], state: dict[str, Any], p: Tensor) -> Tensor:
    correction = 1.0 - group["betas"][1] ** float(state["step"])
    root = (state["exp_avg_sq"] / correction).sqrt_().add_(group["eps"])
    return _over(group["lr"], root)


def _rmsprop(group: dict[str, Any], state: dict[str, Any], p: Tensor) -> Tensor:
    rate = group["lr"] / (1.0 - group["momentum"])
    return _over(rate, state["square_avg"].sqrt().add_(group["eps"]))


def _adagrad(group: dict[str, Any], state: dict[str, Any], p: Tensor) -> Tensor:
    rate = group["lr"] / (1.0 + (float(state["step"]) - 1.0) * group["lr_decay"])
    return _over(rate, state["sum"].sqrt().add_(group["eps"]))


_STEP_SIZES: dict[type[Optimizer], Callable[[dict[str, Any], dict[str, Any], Tensor], Tensor]] = {
    torch.optim.SGD: _sgd,
    torch.optim.Adam: _adam,
    torch.optim.AdamW: _adam,
    torch.optim.RMSprop: _rmsprop,
    torch.optim.Adagrad: _adagrad,
}


@torch.no_grad()
def step_sizes(optimizer: Optimizer, weights: Mapping[str, nn.Parameter]) -> Tensors:
    """How far a constant gradient moves a weight per step in the long run, for a unit of it.

    SGD eta / (1 - momentum); Adam eta / (sqrt(v) + eps): its first moment is an average. A
    proximal step of that size has its fixed points where the penalised loss is least.

    Args:
        optimizer: that has just made a step.
        weights: name -> parameter of it, which the step moved.

    Returns:
        name -> tensor that broadcasts over the weight.

    Raises:
        SteppeError: it is not known how the optimiser scales its steps.

    Example:
        >>> p = nn.Parameter(torch.ones(2))
        >>> step_sizes(torch.optim.SGD([p], lr=0.5), {"a": p})
        {'a': tensor(0.5000)}
    """
    check_known(optimizer)
    size_of = _STEP_SIZES[type(optimizer)]
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    # a step that the scaler skipped has left no state, and moved nothing
    return {
        n: size_of(groups[id(p)], optimizer.state[p], p)
        for n, p in weights.items()
        if size_of is _sgd or p in optimizer.state
    }


def check_known(optimizer: Optimizer) -> None:
    """Raise SteppeError where it is not known how the optimiser scales its steps."""
    if type(optimizer) not in _STEP_SIZES:
        raise SteppeError(
            "a proximal step must know how the optimizer scales its own",
            got=type(optimizer).__name__,
            way_out=f"one of {', '.join(k.__name__ for k in _STEP_SIZES)}, or step subgradient",
        )


def step_sizes_of(optimizers: Optimizers, weights: Mapping[str, nn.Parameter]) -> Tensors:
    """`step_sizes` of weights that several optimisers hold between them."""
    owners = optimizers.owners()
    sizes: Tensors = {}
    for optimizer in optimizers.each():
        own = {n: p for n, p in weights.items() if owners[id(p)] is optimizer}
        sizes |= step_sizes(optimizer, own) if own else {}
    return sizes
