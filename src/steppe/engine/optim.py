"""torch's optimisers and 8-bit Adam by name, and the learning rate over a run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from steppe.core.errors import SteppeError, unknown
from steppe.engine.adam8bit import adam8bit

_OF_OTHERS: dict[str, Callable[[], Any]] = {"adam8bit": adam8bit}
"""Optimisers that are not torch's own: name -> what imports them."""


def kind_of(name: str) -> Any:
    """The class of an optimiser of ``torch.optim``, its name in any case, or of ``adam8bit``.

    Raises:
        SteppeError: there is no such optimiser, or what it needs is not installed.

    Example:
        >>> kind_of("sgd").__name__
        'SGD'
    """
    known: dict[str, Any] = {
        key.lower(): kind
        for key, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
    }
    if name.lower() in _OF_OTHERS:
        return _OF_OTHERS[name.lower()]()
    if name.lower() not in known:
        raise unknown("optimizer", name, [*known, *_OF_OTHERS])
    return known[name.lower()]


def options_of(name: str) -> tuple[str, ...]:
    """What an optimiser can be given beside parameters and learning rate.

    Raises:
        SteppeError: there is no such optimiser.

    Example:
        >>> options_of("rprop")[:2]
        ('etas', 'step_sizes')
    """
    taken = inspect.signature(kind_of(name)).parameters
    return tuple(key for key in taken if key not in ("self", "params", "lr"))


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Compare options with the signature.

    Raises:
        SteppeError: there is no such optimiser, or it has no such option.
    """
    for key in options:
        if key not in options_of(name):
            raise unknown(f"option of optimizer {name}", key, options_of(name))


def optimizer(name: str, params: Iterable[nn.Parameter], lr: float, **options: Any) -> Optimizer:
    """Any optimiser of ``torch.optim``, or ``adam8bit``, its name in any case.

    Raises:
        SteppeError: there is no such optimiser, or it does not take an option.

    Example:
        >>> type(optimizer("sgd", [nn.Parameter(torch.ones(1))], 0.1, momentum=0.9)).__name__
        'SGD'
    """
    check_options(name, options)
    try:
        made: Optimizer = kind_of(name)(params, lr=lr, **options)
        return made
    except (TypeError, ValueError) as error:
        raise SteppeError(
            f"optimizer {name} must take its options", got=f"{options} ({error})"
        ) from None


def optimizers(
    name: str, params: Iterable[nn.Parameter], lr: float, **options: Any
) -> tuple[list[Optimizer], list[str]]:
    """One optimiser for all parameters, or two where it is for matrices alone (Muon).

    What is no matrix then goes to AdamW, with the same learning rate and weight decay.

    Args:
        name: of ``torch.optim`` or ``adam8bit``, in any case.
        params: all parameters.
        lr: learning rate of all.
        options: its further arguments.

    Returns:
        The optimisers, and what should be said of them.

    Raises:
        SteppeError: there is no such optimiser, it does not take an option, it needs what the
            network does not have (matrices, sparse gradients).

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> [type(one).__name__ for one in optimizers("muon", layer.parameters(), 0.02)[0]]
        ['Muon', 'AdamW']
    """
    every = list(params)
    check_options(name, options)
    if not _makes_a_step(name, (2, 2), options):  # its own message says what is wrong
        _try(name, (2, 2), options)
    if _makes_a_step(name, (2,), options):
        return [optimizer(name, every, lr, **options)], []
    matrices = [p for p in every if p.ndim == 2]
    others = [p for p in every if p.ndim != 2]
    if not matrices:
        raise SteppeError(
            f"optimizer {name} is for matrices",
            got="a network without one (kernels of convolutions are none)",
            way_out="another optimizer, e.g. train.optimizer adamw",
        )
    decay = {key: value for key, value in options.items() if key == "weight_decay"}
    made = [optimizer(name, matrices, lr, **options)]
    if others:
        made.append(optimizer("adamw", others, lr, **decay))
    return made, [
        f"optimizer {name} is for matrices: it has {len(matrices)} of {len(every)} parameters, "
        "AdamW with the same learning rate has the rest"
    ]


def _try(name: str, shape: tuple[int, ...], options: Mapping[str, Any]) -> None:
    """One step of a small parameter that has a dense gradient.

    Raises:
        SteppeError: the optimiser cannot be made so, or cannot make it.
    """
    weight = nn.Parameter(torch.ones(shape))
    weight.grad = torch.ones_like(weight)
    trial = optimizer(name, [weight], 1e-3, **options)
    if inspect.signature(type(trial).step).parameters["closure"].default is not None:
        return  # sparsify says what is to be said of those that need a closure
    try:
        trial.step()
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise SteppeError(
            f"optimizer {name} must make a step with its options from dense gradients",
            got=f"{dict(options) or 'none'} ({' '.join(str(error).split())[:150]})",
            way_out="another optimizer or other options, e.g. train.optimizer adamw",
        ) from None


def _makes_a_step(name: str, shape: tuple[int, ...], options: Mapping[str, Any]) -> bool:
    try:
        _try(name, shape, options)
    except SteppeError:
        return False
    return True


_SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda p: 1.0,
    "linear": lambda p: 1.0 - p,
    "cosine": lambda p: 0.5 * (1.0 + math.cos(math.pi * p)),
    "step": lambda p: 0.1 ** ((p >= 0.5) + (p >= 0.75)),
}


def lr_factor(
    schedule: str, warmup: float, steps: Sequence[tuple[float, float]] = ()
) -> Callable[[float], float]:
    """Learning rate over its base at each point of a run.

    Linear warm-up to 1, then ``cosine`` to 0 at the run's very end, ``linear`` to 0, ``step``
    (a tenth at 1/2 and at 3/4 of the rest, or as ``steps`` say) or ``constant``.

    Args:
        schedule: the shape after the warm-up.
        warmup: fraction of the run that warms up.
        steps: of ``step``: from which point of the run on it is which factor.

    Returns:
        A function of progress in [0, 1].

    Example:
        >>> lr_factor("cosine", 0.1)(0.55)
        0.5
        >>> lr_factor("step", 0.0, [(0.75, 0.375), (0.875, 0.125)])(0.8)
        0.375
    """
    if schedule not in _SHAPES:
        raise unknown("learning-rate schedule", schedule, _SHAPES)
    if not 0.0 <= warmup < 1.0:
        raise SteppeError(
            "train.warmup_epochs must be fewer than the run's epochs (of one training, where a "
            "method rewinds)",
            got=f"a warm-up of {warmup:g} times the run",
            way_out="--set train.warmup_epochs=0 (in a recipe train: {warmup_epochs: 0}), or more "
            "train.epochs",
        )
    if steps and (schedule != "step" or any(times <= 0 for _, times in steps)):
        raise SteppeError(
            "train.lr_steps are epochs with factors above 0, of lr_schedule step",
            got=f"{[list(step) for step in steps]} and lr_schedule {schedule}",
        )

    def factor(progress: float) -> float:
        if progress < warmup:
            return progress / warmup
        if steps:
            passed = [(at, times) for at, times in steps if progress >= at]
            return max(passed)[1] if passed else 1.0
        return _SHAPES[schedule](round((progress - warmup) / (1.0 - warmup), 12))

    return factor
