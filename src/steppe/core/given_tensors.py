"""Which modules are given the very tensors that others return, as one pass shows."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class GivenTensors:
    """What becomes of the outputs of some modules in one pass.

    Args:
        givers: module -> its name.
        takers: modules whose first argument is looked at.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        >>> tensors = GivenTensors({net[0]: "first", net[2]: "last"}, [net[1]])
        >>> with tensors.watching(): _ = net(torch.ones(4, 2)).sum()
        >>> [giver for giver, taker in tensors.pairs], tensors.elsewhere
        (['first'], {'last'})
    """

    def __init__(self, givers: Mapping[nn.Module, str], takers: Iterable[nn.Module]) -> None:
        self._givers, self._takers = dict(givers), list(takers)
        self.pairs: dict[tuple[str, nn.Module], None] = {}
        """(giver, taker) in the order of the pass."""
        self.elsewhere: set[str] = set()
        """Givers whose outputs anything but a taker computes with."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at a pass; it is run without torch.compile."""
        tensors: dict[int, tuple[weakref.ref[Tensor], str]] = {}
        with ExitStack() as stack:
            if "torch._dynamo" in sys.modules:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            uses = stack.enter_context(_Uses(lambda t: self._elsewhere(tensors, t)))
            for hook in self._hooks(tensors, uses):
                stack.callback(hook.remove)
            yield

    def _elsewhere(self, tensors: Mapping[int, Any], tensor: Tensor) -> None:
        giver = _giver(tensors, tensor)
        if giver is not None:
            self.elsewhere.add(giver)

    def _hooks(self, tensors: dict[int, Any], uses: _Uses) -> Iterator[Any]:
        def returned(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                tensors[id(output)] = weakref.ref(output), self._givers[module]

        def takes(module: nn.Module, args: tuple[Any, ...]) -> None:
            uses.within += 1
            giver = _giver(tensors, args[0]) if args else None
            if giver is not None:
                self.pairs[giver, module] = None

        def took(module: nn.Module, args: Any, output: Any) -> None:
            uses.within -= 1

        for module in self._givers:
            yield module.register_forward_hook(returned)
        for module in self._takers:
            yield module.register_forward_pre_hook(takes)
            yield module.register_forward_hook(took, always_call=True)


class _Uses(TorchFunctionMode):
    """Tells of tensors that become others outside the modules that it is told of."""

    def __init__(self, tell: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._tell, self.within = tell, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if not self.within and any(True for _ in _tensors([made])):
            for tensor in _tensors([*args, *(kwargs or {}).values()]):
                self._tell(tensor)
        return made


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _giver(tensors: Mapping[int, Any], tensor: Any) -> str | None:
    """Whose output that very tensor is."""
    entry = tensors.get(id(tensor))
    return entry[1] if entry is not None and entry[0]() is tensor else None
