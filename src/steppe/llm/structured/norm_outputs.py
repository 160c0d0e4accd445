"""What the norms of a block give: how large, to what, and what stands in for lost dimensions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.protocols import StreamSolver
from steppe.engine import ranks

Run = Callable[[], object]
"""A pass through something that contains the norms."""


class _Seen(Exception):
    """Raised once what was looked for has been seen: nothing behind it is needed."""


@contextlib.contextmanager
def _hooked(norm: nn.Module, see: Callable[[Tensor], None]) -> Iterator[None]:
    handle = norm.register_forward_hook(lambda module, args, given: see(given))
    try:
        yield
    finally:
        handle.remove()


def given_by(norm: nn.Module, run: Run) -> Tensor:
    """What a norm gives in a pass, ``[tokens, dimensions]``; the pass ends there.

    Args:
        norm: in what is run.
        run: the pass.
    """
    seen: list[Tensor] = []

    def see(given: Tensor) -> None:
        seen.append(given.flatten(0, -2))
        raise _Seen

    with _hooked(norm, see), contextlib.suppress(_Seen):
        run()
    assert seen, "every norm of a block is on the way of all tokens"
    return seen[0]


def sizes(norms: Sequence[nn.Module], run: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """What a pass gives, and the sum of |n_j| over tokens and some norms, ``[dimensions]``.

    Args:
        norms: in what is run.
        run: the pass.
    """
    seen: list[Tensor] = []
    with contextlib.ExitStack() as looking:
        for norm in norms:
            looking.enter_context(_hooked(norm, lambda given: seen.append(_size(given))))
        made = run()
    return made, torch.stack(seen).sum(0)


def _size(given: Tensor) -> Tensor:
    return given.flatten(0, -2).abs().double().sum(0)


def readers_of(
    norms: dict[str, nn.Module], readers: dict[str, nn.Module], run: Run
) -> dict[str, list[str]]:
    """Norm -> what reads just what it gives, both in the order in which they run.

    Args:
        norms: by name.
        readers: weight -> the module that multiplies its first argument with it.
        run: a pass through both.
    """
    held: list[Tensor] = []  # so that no place in memory is used again
    norm_at: dict[int, str] = {}
    found: dict[str, list[str]] = {}

    def gave(name: str) -> Any:
        def see(module: nn.Module, args: Any, given: Tensor) -> None:
            held.append(given)
            norm_at[given.untyped_storage().data_ptr()] = name
            found.setdefault(name, [])

        return see

    def took(weights: list[str]) -> Any:
        def see(module: nn.Module, args: Any, kwargs: Any) -> None:
            taken = args[0] if args else next(iter(kwargs.values()))
            name = norm_at.get(taken.untyped_storage().data_ptr())
            if name is not None:
                found[name] += [w for w in weights if w not in found[name]]

        return see

    of: dict[nn.Module, list[str]] = {}
    for weight, module in readers.items():
        of.setdefault(module, []).append(weight)
    handles = [m.register_forward_hook(gave(name)) for name, m in norms.items()]
    handles += [
        m.register_forward_pre_hook(took(weights), with_kwargs=True) for m, weights in of.items()
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


class Moments:
    """What a norm gives in two models: n0 in the dense one, n' in the one that is narrowed.

    Args:
        norm: of the narrowed model, in memory; its shift is not scaled.
        places: of the dimensions that stay.
        fit: whether what reads it is fitted too.
    """

    def __init__(self, norm: nn.Module, places: Tensor, fit: bool) -> None:
        weight = norm.weight
        assert isinstance(weight, Tensor)
        self._places, shift = places.to(weight.device), getattr(norm, "bias", None)
        self._shift = 0.0 if shift is None else shift.detach()[self._places]
        self._squares = torch.zeros(2, dtype=torch.float64, device=weight.device)
        stay, every = len(places), len(weight)
        self._fit: list[Tensor] = []
        if fit:
            shapes = ((every, stay), (stay, stay))
            self._fit = [torch.zeros(s, dtype=torch.float64, device=weight.device) for s in shapes]

    def add(self, dense: Tensor, narrowed: Tensor) -> None:
        """Take in what both give for the same tokens, each ``[tokens, dimensions]``."""
        now = narrowed[:, self._places]
        aimed, own = dense[:, self._places] - self._shift, now - self._shift
        self._squares += torch.stack([x.double().square().sum() for x in (aimed, own)])
        for total, left in zip(self._fit, (dense, now), strict=False):
            total += (left.t() @ now).double()

    def finish(self) -> None:
        """Add up what the processes saw."""
        ranks.add_up([self._squares, *self._fit])

    @property
    def factor(self) -> float:
        """By which what the norm gives is multiplied; 1 where it gives nothing."""
        aimed, own = self._squares.tolist()
        return float((aimed / own) ** 0.5) if own > 0.0 else 1.0

    def matrix(self, coupling: StreamSolver, factor: float) -> Tensor:
        """See `StreamSolver.matrix`."""
        cross, gram = self._fit
        return coupling.matrix(cross, gram, self._places, factor)
