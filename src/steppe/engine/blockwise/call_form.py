"""What a module is called with, as one row of numbers per window and what is the same for all."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.engine.blockwise.containers import leaves, rebuilt

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
EXACT = 2**24
"""Whole numbers below it are exact in float32."""


@dataclasses.dataclass(frozen=True)
class _Carried:
    """A tensor that differs between windows: so many numbers of each window's row."""

    start: int
    stop: int
    dimension: int
    shape: tuple[int, ...]  # of one window, the windows' dimension first
    dtype: torch.dtype


@dataclasses.dataclass(frozen=True)
class _Repeated:
    """A tensor that is the same for all windows, and there once for each of them."""

    dimension: int
    one: Tensor


@dataclasses.dataclass(frozen=True)
class _Anew:
    """An object that calls may change, such as an empty cache: each gets one as it was."""

    value: Any


class CallForm:
    """How a module is called: what is kept per window, and what all windows share.

    Two calls for different windows tell: a tensor whose size grows with the number of windows
    belongs to them, and is carried if it differs between them. All else must be equal.

    Args:
        two: arguments of the call for two windows.
        three: of one for three, of which the last two are those of ``two``.
        what: names the module in errors.
        names: of the arguments that are given by their position.

    Raises:
        SteppeError: something depends on the text and has no place for a window.

    Example:
        >>> x, scale = torch.arange(6.0).view(3, 2), torch.ones(1)
        >>> form = CallForm(((x[1:],), {"s": scale}), ((x,), {"s": scale}), "layer")
        >>> form.width, form.pack(((x,), {"s": scale})).tolist()[0]
        (2, [0.0, 1.0])
        >>> args, kwargs = form.unpack(torch.tensor([[5.0, 6.0]]))
        >>> args[0].tolist(), kwargs["s"].tolist()
        ([[5.0, 6.0]], [1.0])
    """

    def __init__(
        self, two: Arguments, three: Arguments, what: str, names: Sequence[str] = ()
    ) -> None:
        self._what, self.width = what, 0
        more, fewer = list(leaves(three)), dict(leaves(two))
        if [place for place, _ in more] != list(fewer):
            raise self._refused("arguments of another form for other texts")
        self._leaves = [self._leaf(named(place, names), leaf, fewer[place]) for place, leaf in more]
        # containers of its own: those of a call may change while it runs; tensors make a container
        empty = [torch.empty(0) if isinstance(leaf, Tensor) else None for _, leaf in more]
        self._containers = rebuilt(three, iter(empty))

    def _refused(self, got: str) -> SteppeError:
        return SteppeError(
            "what a block gets must be kept window by window",
            got=f"{got}, for {self._what}",
            consequence="it cannot be pruned block by block",
            way_out="prune it in a loop of your own with steppe.sparsify",
        )

    def _leaf(self, name: str, leaf: Any, other: Any) -> Any:
        if not isinstance(leaf, Tensor) or not isinstance(other, Tensor):
            same = type(leaf) is type(other) and (
                not isinstance(leaf, bool | int | float | str) or leaf == other
            )
            if not same:
                raise self._refused(f"{name}, which depends on the text")
            mutable = hasattr(leaf, "__dict__") and not isinstance(leaf, nn.Module | type)
            return _Anew(copy.deepcopy(leaf)) if mutable and not callable(leaf) else leaf
        if leaf.shape == other.shape:
            if not torch.equal(leaf, other):
                raise self._refused(f"{name}, which depends on the text as a whole")
            return leaf.clone()
        dimension = self._dimension(name, leaf, other)
        rows = leaf.movedim(dimension, 0)
        rows = rows.reshape(3, rows.shape[0] // 3, *rows.shape[1:])
        others = other.movedim(dimension, 0).reshape(2, *rows.shape[1:])
        if all(torch.equal(row, rows[0]) for row in (*rows[1:], *others)):
            return _Repeated(dimension, rows[0].movedim(0, dimension).clone())
        if not leaf.is_floating_point() and int(leaf.long().abs().max()) >= EXACT:
            raise self._refused(f"{name}, whole numbers too large to be kept as float32")
        start, self.width = self.width, self.width + rows[0].numel()
        return _Carried(start, self.width, dimension, tuple(rows.shape[1:]), leaf.dtype)

    def _dimension(self, name: str, three: Tensor, two: Tensor) -> int:
        differ = _differ(three, two)
        if len(differ) != 1 or three.shape[differ[0]] * 2 != two.shape[differ[0]] * 3:
            raise self._refused(f"{name}, whose shape depends on the text")
        return differ[0]

    def pack(self, call: Arguments) -> Tensor:
        """The windows' own part of a call's arguments, float32 ``[windows, width]``."""
        parts = []
        for form, (_, leaf) in zip(self._leaves, leaves(call), strict=True):
            if isinstance(form, _Carried):
                rows = leaf.detach().movedim(form.dimension, 0)
                parts.append(rows.reshape(len(rows) // form.shape[0], -1).float())
        return torch.cat(parts, 1)

    def unpack(self, rows: Tensor) -> Arguments:
        """Arguments for windows whose own part is given, ``[windows, at least width]``."""
        values = []
        for form in self._leaves:
            if isinstance(form, _Carried):
                own = rows[:, form.start : form.stop].reshape(-1, *form.shape[1:])
                values.append(own.movedim(0, form.dimension).to(form.dtype))
            elif isinstance(form, _Repeated):
                values.append(torch.cat([form.one] * len(rows), form.dimension))
            else:
                values.append(copy.deepcopy(form.value) if isinstance(form, _Anew) else form)
        args, kwargs = rebuilt(self._containers, iter(values))
        return args, kwargs


def first_tensor(returned: Any, what: str) -> Tensor:
    """The first tensor of numbers in what a block returns: the hidden states.

    Raises:
        SteppeError: there is none.
    """
    for _, leaf in leaves(returned):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf
    raise SteppeError(
        "a block returns hidden states",
        got=f"{type(returned).__name__} without a tensor, from {what}",
        way_out="prune it in a loop of your own with steppe.sparsify",
    )


def windows_dimension(three: Tensor, two: Tensor, what: str) -> int:
    """Which dimension of outputs for three and for two windows is the windows'.

    Raises:
        SteppeError: none is.
    """
    differ = _differ(three, two)
    if len(differ) != 1:
        raise SteppeError(
            "outputs must have a dimension for the windows",
            got=f"{list(three.shape)} for 3 and {list(two.shape)} for 2 of them, from {what}",
            way_out="prune it in a loop of your own with steppe.sparsify",
        )
    return differ[0]


def _differ(three: Tensor, two: Tensor) -> list[int]:
    """Dimensions of different size; none at all where their number differs."""
    if three.ndim != two.ndim:
        return []
    pairs = zip(three.shape, two.shape, strict=True)
    return [i for i, (a, b) in enumerate(pairs) if a != b]


def named(place: str, names: Sequence[str] = ()) -> str:
    """A place in a call's arguments, in words.

    Args:
        place: as `steppe.engine.blockwise.containers.leaves` gives it.
        names: of the arguments that are given by their position.

    Example:
        >>> named("[0][1]"), named("[0][1]", ["x", "mask"]), named("[1]['shared'][0]")
        ('argument 1', 'mask', 'shared[0]')
    """
    kind, _, inside = place.partition("][")
    first, _, rest = inside.partition("]")
    if kind != "[0":
        return first.strip("'") + rest
    known = int(first) < len(names)
    return (names[int(first)] if known else f"argument {first}") + rest


def positional(module: nn.Module) -> list[str]:
    """Names of the arguments of a module's own forward."""
    return list(inspect.signature(type(module).forward).parameters)[1:]
