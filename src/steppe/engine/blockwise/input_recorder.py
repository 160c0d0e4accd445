"""The inputs of a block's layers, seen where the products are computed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from steppe.engine.blockwise.convolution_inputs import CONVOLUTIONS, bound, unfolded

See = Callable[[str, Tensor], None]


class _EnoughError(Exception):
    """All inputs of a pass have been seen."""


class InputRecorder(TorchFunctionMode):
    """Calls ``see(layer name, inputs [tokens, columns])`` for every product with a weight.

    It looks at the functions themselves (linear, addmm, matmul, convolutions), so that a weight is
    found whatever module uses it: Linear, transformers' Conv1D, one expert of a packed mixture, a
    state-space block that calls its convolution by itself.

    Of a convolution with groups the inputs are ``[groups * tokens, columns]``, group after group,
    and `groups` tells how many there are.

    Args:
        weights: layer name -> weight, or view of one.
        see: is called before the product.
    """

    def __init__(self, weights: Mapping[str, Tensor], see: See) -> None:
        super().__init__()
        self._names = {(w.data_ptr(), w.numel()): name for name, w in weights.items()}
        self._see = see
        self.groups: dict[str, int] = {}
        self._seen: list[str] = []
        self._once: bool | None = None  # known after the first pass
        self._brief = False

    def through(self, call: Callable[[], Any]) -> None:
        """A pass of which only the inputs are wanted: it ends with the last of them.

        What comes after the last product's inputs, that product above all, is not computed: a
        fifth of a gated block. The first pass goes to its end and shows whether each weight is
        used once; if one is used more often, or not at all, so do the others.

        Args:
            call: the pass; its result is not used, and it may be left in the middle.
        """
        self._seen, self._brief = [], self._once is True
        with contextlib.suppress(_EnoughError):
            call()
        if self._once is None:
            self._once = len(self._seen) == len(set(self._seen)) == len(self._names)
        self._brief = False

    def _saw(self, name: str, x: Tensor) -> None:
        self._see(name, x)
        self._seen.append(name)
        if self._brief and len(set(self._seen)) == len(self._names):
            raise _EnoughError

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in CONVOLUTIONS:
            call = bound(args, kwargs)
            name = self._name(call["weight"])
            if name is not None:
                self.groups[name] = int(call["groups"])
                self._saw(name, unfolded(call, CONVOLUTIONS[func]))
        place = _OPERANDS.get(func)
        if place is not None and len(args) > max(place):
            x, weight = args[place[0]], args[place[1]]
            name = self._name(weight)
            if name is not None:
                self._saw(name, x)
            elif func in _PRODUCTS and (name := self._name(x)) is not None:
                # W X instead of X W': state-space models keep tokens in the last dimension
                self._saw(name, weight if weight.ndim == 1 else weight.transpose(-2, -1))
        return func(*args, **kwargs)

    def _name(self, weight: Any) -> str | None:
        if not isinstance(weight, Tensor) or weight.is_meta:
            return None
        return self._names.get((weight.data_ptr(), weight.numel()))


_PRODUCTS = {torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__}

# function -> positions of its inputs and its weight
_OPERANDS: dict[Any, tuple[int, int]] = {
    torch.nn.functional.linear: (0, 1),
    torch.addmm: (1, 2),
    **dict.fromkeys(_PRODUCTS, (0, 1)),
}
