"""The choices that routers made in one model, made again in another with the same experts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from steppe.llm.model import StreamedModel
from steppe.llm.self_check import relative_error
from steppe.llm.structured.routing import stood_in
from steppe.removal.mixtures import mixtures_of

Arguments = tuple[Tensor, Tensor]
"""What experts get beside the hidden states: index and gates, both ``[..., chosen]``."""


class PinnedRoutes:
    """Which experts the tokens go to in one model, so that they go there in a cut one.

    Two experts may be equally good for a token but for rounding, and some checkpoints have routers
    of zeros: then a model that computes the same may choose another. So the choice is not compared,
    but what it is made of: the logits of the routers, and the gates of what both choose.

    Mixtures whose experts are called in another form choose for themselves.

    Args:
        kept: weight of a router -> ``[experts]`` booleans; all stay of those that are not named.
    """

    def __init__(self, kept: Mapping[str, Tensor]) -> None:
        self._kept = kept
        self._chosen: dict[str, Arguments] = {}
        self._logits: dict[str, Tensor] = {}
        self.error = 0.0
        """The largest difference of routers' outputs so far, relative to the largest."""

    @contextlib.contextmanager
    def recorded(self, model: StreamedModel) -> Iterator[None]:
        """While it is entered, what is chosen in a model is noted."""
        with contextlib.ExitStack() as entered:
            for mixture in mixtures_of(model.model):
                see = partial(self._recorded, mixture.name)
                entered.enter_context(_around(mixture.experts, see))
            entered.enter_context(_Seen(model.model, self._note))
            yield

    @contextlib.contextmanager
    def repeated(self, model: StreamedModel, blocks: Sequence[str]) -> Iterator[None]:
        """While it is entered, the same is chosen in a cut model.

        Args:
            model: the cut one.
            blocks: what its blocks were called before.
        """
        former = dict(zip(model.names, blocks, strict=True))
        names = {
            mixture.name: old + mixture.name.removeprefix(new)
            for mixture in mixtures_of(model.model)
            for new, old in former.items()
            if mixture.name.startswith(f"{new}.")
        }

        def compare(name: str, logits: Tensor) -> None:
            before = self._logits.get(names.get(name, ""))
            if before is not None and before.shape[:-1] == logits.shape[:-1]:
                kept = self._alive(names[name], before.shape[-1])
                self._take_in(logits, before[..., kept.to(before.device)])

        with contextlib.ExitStack() as entered:
            for mixture in mixtures_of(model.model):
                if mixture.name in names:
                    pin = partial(self._repeated, names[mixture.name])
                    entered.enter_context(_around(mixture.experts, pin))
            entered.enter_context(_Seen(model.model, compare))
            yield

    def _alive(self, name: str, experts: int) -> Tensor:
        return self._kept.get(name, torch.ones(experts, dtype=torch.bool))

    def _take_in(self, found: Tensor, expected: Tensor) -> None:
        self.error = max(self.error, relative_error(found, expected))

    def _note(self, name: str, logits: Tensor) -> None:
        self._logits[name] = logits.clone()

    def _recorded(self, name: str, own: Any, hidden: Tensor, *rest: Any) -> Any:
        """Experts called as they are, and what they are called with noted."""
        if _of_tokens(hidden, rest):
            self._chosen[name] = (rest[0].clone(), rest[1].clone())
        return own(hidden, *rest)

    def _repeated(self, name: str, own: Any, hidden: Tensor, *rest: Any) -> Any:
        """Experts called as they were before, where that is known; the gates are compared."""
        known = self._chosen.get(name)
        if known is None or not _of_tokens(hidden, rest) or known[0].shape != rest[0].shape:
            return own(hidden, *rest)
        before, gates = known
        number = self._alive(name, int(before.max()) + 1).cumsum(0).to(before.device) - 1
        index = number[before].to(rest[0].dtype)
        (then, of_then), (now, of_now) = (_sorted(*x) for x in ((index, gates), rest[:2]))
        if (same := (then == now).all(-1)).any():
            self._take_in(of_now[same], of_then[same])
        return own(hidden, index, gates, *rest[2:])


def _of_tokens(hidden: Tensor, rest: tuple[Any, ...]) -> bool:
    """Whether experts are called with an index and a gate for each choice of each token."""
    if len(rest) < 2 or not all(isinstance(x, Tensor) for x in rest[:2]):
        return False
    index, gates = rest[:2]
    whole = not (index.is_floating_point() or index.is_complex()) and index.dtype != torch.bool
    return whole and index.shape == gates.shape and index.shape[:-1] == hidden.shape[:-1]


def _sorted(index: Tensor, gates: Tensor) -> Arguments:
    """The experts of each token in order, and their gates."""
    order = index.argsort(-1)
    return index.gather(-1, order), gates.gather(-1, order)


def _around(module: nn.Module, do: Any) -> contextlib.AbstractContextManager[None]:
    """Experts whose forward is called by ``do(forward, hidden states, index, gates, ...)``."""
    own = type(module).forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if kwargs or not args or not isinstance(args[0], Tensor):
            return own(module, *args, **kwargs)
        return do(partial(own, module), *args)

    return stood_in(module, forward)


class _Seen(TorchFunctionMode):
    """What linear routers give is shown.

    Args:
        model: that they are in.
        show: called with the name of a router's weight, and its outputs.
    """

    def __init__(self, model: nn.Module, show: Callable[[str, Tensor], None]) -> None:
        super().__init__()
        self._show = show
        self._routers = {
            mixture.name: model.get_submodule(mixture.name.rpartition(".")[0])
            for mixture in mixtures_of(model)
        }

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is linear and len(args) > 1:
            for name, module in self._routers.items():  # a weight is another one once it is loaded
                weight = getattr(module, name.rpartition(".")[2])
                if not weight.is_meta and weight.data_ptr() == args[1].data_ptr():
                    self._show(name, made)
        return made
