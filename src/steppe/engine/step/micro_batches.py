"""Micro-batches of one optimiser step, kept for a second pass."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.engine.step.draws import Drawn

Closure = Callable[[], Tensor | tuple[Tensor, Tensor]]


@dataclass
class MicroBatches:
    """What one call of ``step`` gave towards an optimiser step.

    Args:
        closures: compute the losses.
        share: by how much each loss is divided.
        drawn: the random state before the first pass; None where no second one follows.
        loss: at x.
        pulls: for each closure the gradients by its outputs at x, where a second pass wants them.
    """

    closures: list[Closure]
    share: int
    drawn: Drawn | None
    loss: Tensor | None = None
    pulls: list[list[Tensor]] = field(default_factory=list)


def bound(closure: Any) -> Any:
    """A function whose variables stay what they are now.

    A loop that gathers micro-batches over several calls has moved on when the second pass comes,
    and a closure reads its variables when it is called. Functions that it calls are bound with it.

    Example:
        >>> closures = []
        >>> for i in range(2): closures.append(bound(lambda: i))
        >>> [closure() for closure in closures]
        [0, 1]
    """
    return _bound(closure, {})


def _bound(function: Any, done: dict[int, Any]) -> Any:
    if not isinstance(function, types.FunctionType):
        return function
    if id(function) in done:
        return done[id(function)]
    names = _names(function.__code__)
    scope: dict[str, Any] = {
        k: v for k, v in function.__globals__.items() if k in names or k.startswith("__")
    }
    cells = [types.CellType() for _ in function.__closure__ or ()]
    again = types.FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, tuple(cells)
    )
    again.__kwdefaults__ = function.__kwdefaults__
    done[id(function)] = again
    here = function.__module__

    def follow(value: Any) -> Any:
        near = isinstance(value, types.FunctionType) and value.__module__ == here
        return _bound(value, done) if near else value

    scope.update({k: follow(v) for k, v in scope.items()})
    for mine, its in zip(cells, function.__closure__ or (), strict=True):
        try:
            mine.cell_contents = follow(its.cell_contents)
        except ValueError:  # a variable that has no value yet
            continue
    return again


def _names(code: types.CodeType) -> set[str]:
    """The globals that a function may read, functions inside it included."""
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def check_same(first: Tensor, again: Tensor) -> None:
    """Raise SteppeError when a kept closure computes another loss than it did."""
    if abs(float(again) - float(first)) <= 1e-4 * abs(float(first)) + 1e-12:
        return
    raise SteppeError(
        "a closure that is kept for the second pass computes the same loss again",
        got=f"{float(first):.6g} at first and {float(again):.6g} later",
        consequence="the gradient would be that of other data",
        way_out="bind what changes, lambda x=x, y=y: loss_function(model(x), y), draw random "
        "numbers with torch, or give all micro-batches to one step",
    )
