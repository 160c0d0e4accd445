"""A forward pass whose gradients pass straight through steps, and what its last operation took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


def _named(*names: str) -> set[Any]:
    """The functions and methods of these names."""
    places = (torch, Tensor, F)
    return {getattr(place, n) for n in names for place in places if hasattr(place, n)}


_STEPS = _named("round", "floor", "ceil", "trunc", "fix", "sign", "sgn")
_STEPS_IN_PLACE = _named("round_", "floor_", "ceil_", "trunc_", "fix_", "sign_", "sgn_")
_CASTS = _named("to", "type", "byte", "char", "short", "int", "long")
_FLOOR_DIVISIONS = _named("floor_divide", "__floordiv__")
_REMAINDERS = _named("remainder", "fmod", "__mod__")
_CUTS = _named("detach", "detach_") | {Tensor.data.__get__}  # type: ignore[attr-defined]

# Operations at the end of a network that leave the order of the scores as it is ...
_MONOTONE = _named("softmax", "log_softmax", "sigmoid", "argmax", "one_hot", "round")
# ... and those after them that may be done before as well.
_SHAPES = _named("squeeze", "flatten", "view", "reshape", "float", "double", "to")


class Followed(TorchFunctionMode):
    """A context in which a network's outputs are followed back to its scores.

    Args:
        through: also give steps the gradient of the identity. Values stay as they are. What is
            rounded, cast to whole numbers or cut off (``detach``, ``no_grad``) has the gradient of
            what went in; ``x - x % s`` that of x. This is the direction in which a network with
            such steps changes, for an attack whose points are judged without it.

    Source: Bengio et al. 2013 (straight-through); Athalye et al. 2018 (as an attack).

    Example:
        >>> x = torch.tensor([0.3], requires_grad=True)
        >>> with Followed(through=True):
        ...     y = 2 * x.round()
        >>> torch.autograd.grad(y, x)[0].item(), y.item()
        (2.0, 0.0)
        >>> with Followed() as followed:
        ...     p = torch.softmax(torch.tensor([[900.0, 0.0]]), 1)
        >>> followed.scores(p).tolist()
        [[900.0, 0.0]]
    """

    def __init__(self, *, through: bool = False) -> None:
        super().__init__()
        self.through = through
        self._sources: dict[int, tuple[Tensor, Tensor]] = {}

    def scores(self, output: Any) -> Any:
        """What an output was before its last softmax, sigmoid, argmax or rounding."""
        while (pair := self._sources.get(id(output))) is not None:
            output = pair[1]
        return output

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """What the function gives, with the gradient passed on and its source remembered."""
        given = kwargs or {}
        result = self._call(func, args, given) if self.through else func(*args, **given)
        x = args[0] if args else None
        if isinstance(x, Tensor) and isinstance(result, Tensor):
            if func in _SHAPES and id(x) in self._sources and result is not x:
                # of decisions (argmax) the shape is another one
                moved = self.scores(x)
                source = func(moved, *args[1:], **given) if moved.shape == x.shape else moved
                self._remember(result, source)
            elif func in _MONOTONE:
                self._remember(result, x)
        return result

    def _remember(self, result: Tensor, source: Tensor) -> None:
        """Where a tensor comes from; of the last few, as only the network's end matters."""
        self._sources[id(result)] = result, source
        if len(self._sources) > 4:
            del self._sources[next(iter(self._sources))]

    def _call(self, func: Callable[..., Any], args: Sequence[Any], given: dict[str, Any]) -> Any:
        if func is torch._C._set_grad_enabled:
            return None  # no_grad() in the network
        if not args or not isinstance(args[0], Tensor) or not args[0].requires_grad:
            return func(*args, **given)
        x = args[0]
        if func in _CUTS:
            return x
        if func in _STEPS_IN_PLACE:
            step = getattr(torch, func.__name__.rstrip("_"))
            return x.copy_(_through(x, step(*args, **given)))
        if func in _FLOOR_DIVISIONS or given.get("rounding_mode"):
            return _through(x / args[1], func(x.detach(), *args[1:], **given))
        result = func(*args, **given)
        if func in _REMAINDERS:
            return result.detach()
        whole = func in _CASTS and result.dtype != torch.bool and not result.is_floating_point()
        return _through(x, result) if whole or func in _STEPS else result


def _through(x: Tensor, result: Tensor) -> Tensor:
    """The result's value with the gradient of x."""
    return x + (result.to(x.dtype) - x).detach()
