"""torch's optimisers by name, and the learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from steppe.core.errors import SteppeError, unknown


def optimizer(name: str, params: Iterable[nn.Parameter], lr: float, **options: Any) -> Optimizer:
    """Any optimiser of ``torch.optim``, its name in any case.

    Raises:
        SteppeError: torch has no such optimiser, or it does not take an option.

    Example:
        >>> type(optimizer("sgd", [nn.Parameter(torch.ones(1))], 0.1, momentum=0.9)).__name__
        'SGD'
    """
    known: dict[str, Any] = {
        key.lower(): kind
        for key, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
    }
    if name.lower() not in known:
        raise unknown("optimizer", name, known)
    try:
        made: Optimizer = known[name.lower()](params, lr=lr, **options)
        return made
    except (TypeError, ValueError) as error:
        raise SteppeError(
            f"optimizer {name} must take its options", got=f"{options} ({error})"
        ) from None


_SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda p: 1.0,
    "linear": lambda p: 1.0 - p,
    "cosine": lambda p: 0.5 * (1.0 + math.cos(math.pi * p)),
    "step": lambda p: 0.1 ** ((p >= 0.5) + (p >= 0.75)),
}


def lr_factor(schedule: str, warmup: float) -> Callable[[float], float]:
    """Learning rate over its base at each point of a run.

    Linear warm-up to 1, then ``cosine`` to 0 at the run's very end, ``linear`` to 0, ``step``
    (a tenth at 1/2 and at 3/4 of the rest) or ``constant``.

    Args:
        schedule: the shape after the warm-up.
        warmup: fraction of the run that warms up.

    Returns:
        A function of progress in [0, 1].

    Example:
        >>> lr_factor("cosine", 0.1)(0.55)
        0.5
    """
    if schedule not in _SHAPES:
        raise unknown("learning-rate schedule", schedule, _SHAPES)
    if not 0.0 <= warmup < 1.0:
        raise SteppeError("warm-up must be shorter than the run", got=f"{warmup:g} of the run")

    def factor(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        return _SHAPES[schedule](round((progress - warmup) / (1.0 - warmup), 12))

    return factor
