"""A block taken apart into its residual sub-layers, found by what they compute, not by a name."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from steppe.engine.blockwise.containers import leaves, rebuilt

Call = Callable[[Tensor, nn.Module], Tensor]
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sublayer:
    """One residual branch of a block, x -> x + f(x), run with the other branches silent.

    Args:
        children: names in the block of the modules that compute f.
        others: names of those of the other branches.
        call: of the block, (state, module) -> outputs.
        block: the block itself.
    """

    children: tuple[str, ...]
    others: tuple[str, ...]
    call: Call
    block: nn.Module
    _silence: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    def forward(self, state: Tensor, module: nn.Module) -> Tensor:
        """The residual stream behind the branch, ``[windows, tokens, hidden]``.

        Args:
            state: what the block gets, with the stream before the branch in its place.
            module: the block; it may be wrapped.
        """
        with silent(self.block, self.others, self._silence):
            return self.call(state, module)

    def apart(self, state: Tensor) -> frozenset[str]:
        """Parameters of the block that the branch does not depend on.

        Those of its own children all belong to it, also experts that no token of a few reaches.

        Args:
            state: what the block gets for a few windows.
        """
        own = tuple(f"{name}." for name in self.children)
        others = tuple(f"{name}." for name in self.others)
        named = dict(self.block.named_parameters())
        between = {
            n: p
            for n, p in named.items()
            if p.is_floating_point() and not n.startswith((*own, *others))
        }
        reached = {n for n, g in self._gradients(between, state).items() if bool(g.any())}
        return frozenset(n for n in named if not n.startswith(own) and n not in reached)

    def _gradients(self, of: dict[str, nn.Parameter], state: Tensor) -> dict[str, Tensor]:
        """Name -> gradient of the squared outputs, of those that have one."""
        before = {name: p.requires_grad for name, p in of.items()}
        for p in of.values():
            p.requires_grad_(True)
        with torch.enable_grad():
            squares = self.forward(state, self.block).square().sum()
        grads: tuple[Tensor | None, ...] = (None,) * len(of)
        if squares.requires_grad:
            grads = torch.autograd.grad(squares, list(of.values()), allow_unused=True)
        for name, p in of.items():
            p.requires_grad_(before[name])
        return {n: g for n, g in zip(of, grads, strict=True) if g is not None}


def sublayers(
    block: nn.Module, children: Sequence[str], call: Call, state: Tensor
) -> tuple[Sublayer, ...]:
    """The residual sub-layers of a block; none where it is no sequence of two.

    A block is cut behind a child where B(x) = B2(B1(x)), bit for bit up to rounding: B1 the block
    with all later children silent (they return zeros), B2 with all earlier ones. So attention and
    feed-forward are found whatever they are called. Where both read the same stream (parallel
    attention), or a norm lies behind the sum, no cut fulfils it.

    Args:
        block: in memory.
        children: names of its children with weight matrices, in the order in which they run.
        call: of the block, (state, module) -> outputs.
        state: what it gets for a few windows.

    Example:
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.attention, self.up, self.down = (nn.Linear(4, 4) for _ in range(3))
        ...     def forward(self, x):
        ...         x = x + self.attention(x)
        ...         return x + self.down(self.up(x).relu())
        >>> block, x = Block(), torch.randn(2, 3, 4)
        >>> run = lambda state, module: module(state)
        >>> [s.children for s in sublayers(block, ["attention", "up", "down"], run, x)]
        [('attention',), ('up', 'down')]
    """
    make = partial(Sublayer, call=call, block=block)
    with torch.no_grad():
        whole = call(state, block)
        for cut in range(1, len(children)):
            first, second = tuple(children[:cut]), tuple(children[cut:])
            pair = make(children=first, others=second), make(children=second, others=first)
            if _composed(pair, state, whole):
                return pair
    return ()


def _composed(pair: tuple[Sublayer, Sublayer], state: Tensor, whole: Tensor) -> bool:
    between = pair[0].forward(state, pair[0].block)
    if between.shape != whole.shape or between[0].numel() > state[0].numel():
        return False
    found = pair[1].forward(continued(state, between), pair[1].block)
    if found.shape != whole.shape:
        return False
    return bool((found - whole).abs().max() <= _ROUNDING * whole.abs().max())


def continued(state: Tensor, stream: Tensor) -> Tensor:
    """What a block gets, with another residual stream in the place of the first numbers.

    Args:
        state: of some windows; the stream itself, or rows that begin with it.
        stream: ``[windows, tokens, hidden]``.
    """
    rows, own = state.flatten(1), stream.flatten(1)
    return torch.cat([own, rows[:, own.shape[1] :]], 1).view_as(state)


@contextlib.contextmanager
def silent(block: nn.Module, names: Sequence[str], known: dict[Any, Any]) -> Iterator[None]:
    """Some children return zeros meanwhile, in the form of what they would return.

    Args:
        block: they are in.
        names: theirs.
        known: child and the form of its arguments -> what it returned; filled here.
    """
    modules = {name: block.get_submodule(name) for name in names}
    before = {name: vars(module).get("forward") for name, module in modules.items()}
    for name, module in modules.items():
        vars(module)["forward"] = partial(_zeros, name, module.forward, known)
    try:
        yield
    finally:
        for name, module in modules.items():
            del vars(module)["forward"]
            if before[name] is not None:
                vars(module)["forward"] = before[name]


def _zeros(name: str, forward: Any, known: dict[Any, Any], *args: Any, **kwargs: Any) -> Any:
    given = tuple(tuple(x.shape) for _, x in leaves((args, kwargs)) if isinstance(x, Tensor))
    if (name, given) not in known:
        with torch.no_grad():
            known[name, given] = forward(*args, **kwargs)
    returned = known[name, given]
    # new ones each time: a block may add to them in place
    zeros = [torch.zeros_like(x) if _is_float(x) else x for _, x in leaves(returned)]
    return rebuilt(returned, iter(zeros))


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
