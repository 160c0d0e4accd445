"""What goes wrong most often in a loop of one's own, said in one line."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steppe.core.errors import SteppeError
from steppe.core.patterns import patterns_of
from steppe.core.protocols import Coupling
from steppe.method import Method


def arguments(
    model: object,
    optimizer: object,
    method: object,
    total_steps: object,
    clip_grad_norm: float | None = None,
) -> Coupling:
    """The method's coupling.

    Raises:
        SteppeError: an argument of `steppe.sparsify` is of another kind.
    """
    several = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    given = [(model, nn.Module), *((o, Optimizer) for o in several), (method, Method)]
    for value, kind in given if several else [(optimizer, Optimizer)]:
        if not isinstance(value, kind) and not (kind is Optimizer and _steps(value)):
            raise SteppeError(
                "sparsify takes a model, an optimizer (or a list of them) and a method, in this "
                "order",
                got=f"{type(value).__name__} where a {kind.__name__} belongs",
                way_out="steppe.sparsify(model, optimizer, steppe.methods.safe(0.9), steps)",
            )
    assert isinstance(method, Method)
    if not isinstance(total_steps, numbers.Integral) or total_steps < 1:
        raise SteppeError("total_steps is a whole number of at least 1", got=repr(total_steps))
    if clip_grad_norm is not None and not clip_grad_norm > 0:
        raise SteppeError(
            "clip_grad_norm is a number above 0",
            got=clip_grad_norm,
            consequence="the gradient would be zero, or point the other way",
            way_out="1.0, or None to clip nothing",
        )
    return check_trains(method)


def check_trains(method: Method) -> Coupling:
    """How a method couples weights and their sparse form while it trains.

    Raises:
        SteppeError: it solves one layer at a time.
    """
    if not isinstance(method.coupling, Coupling) or method.objective.scope == "layer":
        raise SteppeError(
            "a training loop takes a method that trains",
            got=f"{method.name}, which solves one layer at a time",
            way_out="steppe.prune(...) for language models, or safe, gmp, magnitude here",
        )
    return method.coupling


def _steps(value: object) -> bool:
    """Whether a wrapper that is no optimiser of torch's can do what one does."""
    needed = ("param_groups", "state", "step", "zero_grad", "state_dict", "load_state_dict")
    return all(hasattr(value, name) for name in needed)


def closures_of(closures: Sequence[object]) -> None:
    """Raise SteppeError when `step` was given a loss instead of what computes it."""
    if not closures or not all(callable(closure) for closure in closures):
        raise SteppeError(
            "step takes functions that compute the loss",
            got=", ".join(type(c).__name__ for c in closures) or "nothing",
            way_out="sparsifier.step(lambda: loss_function(model(x), y))",
        )


def outcome(value: object, needs_gradient: bool = True) -> tuple[Tensor, Tensor | None]:
    """What a closure returned: the loss, and the accuracy if it gave one.

    Raises:
        SteppeError: the loss is not a scalar tensor with a gradient, or the accuracy no fraction.
    """
    loss, accuracy = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    if isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad >= needs_gradient:
        return loss, None if accuracy is None else _fraction(accuracy)
    shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else ""
    raise SteppeError(
        "the closure must return a scalar loss with a gradient (or it and the accuracy)",
        got=f"{type(loss).__name__}{shape}",
        way_out="return loss_function(model(x), y), without .item() or .detach()",
    )


def _fraction(accuracy: object) -> Tensor:
    """The accuracy as a tensor; one that is a tensor already is not looked into: that waits."""
    if isinstance(accuracy, Tensor) and accuracy.numel() == 1:
        return accuracy
    if isinstance(accuracy, int | float) and 0.0 <= accuracy <= 1.0:
        return torch.tensor(float(accuracy))
    shape = f" of shape {tuple(accuracy.shape)}" if isinstance(accuracy, Tensor) else ""
    raise SteppeError(
        "the accuracy beside the loss is a fraction, in [0, 1]",
        got=f"{type(accuracy).__name__}{shape}" if shape else repr(accuracy),
        way_out="return loss, (logits.argmax(-1) == labels).float().mean()",
    )


def single(coupling: str, groups: Sequence[object]) -> None:
    """Raise SteppeError where a coupling of single layers meets coupled channels."""
    if groups:
        raise SteppeError(
            f"coupling {coupling} works on the weights of single layers",
            got=f"{len(groups)} groups of coupled channels",
            way_out="structure unstructured, or another coupling",
        )


def optimised(weights: Mapping[str, nn.Parameter], parameters: Iterable[Tensor]) -> None:
    """Every weight that may become zero must be the optimiser's."""
    ids = {id(p) for p in parameters}
    absent = [name for name, weight in weights.items() if id(weight) not in ids]
    present = [name for name in weights if name not in absent]
    if not absent:
        return
    patterns = patterns_of(absent, present)
    named = absent if len(absent) <= len(patterns) else patterns
    ways = [f"exclude={patterns}"]
    if present:
        ways.append(f"include={patterns_of(present, absent)}")
    raise SteppeError(
        "every prunable weight must be in the optimizer",
        got=f"{len(absent)} of {len(weights)} that are not: {', '.join(named)}",
        way_out=f"add them to a parameter group, or {min(ways, key=len)}"
        if present
        else "make the optimizer from model.parameters()",
    )
