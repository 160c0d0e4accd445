"""The passes of a model of which one block is in memory: hidden states go from block to block."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.engine.blockwise.call_form import Arguments, named, positional
from steppe.engine.blockwise.containers import leaves
from steppe.llm.skeleton import patched
from steppe.llm.weights import Weights

_PLAIN_ATTENTION = 512  # tokens; beyond, the matrix of all pairs would take much memory


class _Stop(Exception):
    """Raised by the first block's stand-in: what comes after it is not needed."""


class Stream:
    """Blocks called one after the other, with the arguments that the model itself passes them.

    They are recorded with stand-ins in the blocks' places, for each shape of the hidden states.
    `steppe.llm.self_check` finds out whether a model is such a row of blocks at all.

    Args:
        model: its blocks.
    """

    chained = True
    skipped: frozenset[int] = frozenset()

    def __init__(self, model: Weights) -> None:
        self._model = model
        self._calls: dict[tuple[int, int, int], Arguments] = {}
        self._sample: Tensor | None = None
        self._wrap: Callable[[Tensor], Any] | None = None  # hidden states -> as blocks return them

    def state_shape(self, window: int) -> tuple[int, ...]:
        """Of a window's part of what a block gets: ``[window, hidden]``."""
        return window, self._model.hidden_size

    @contextlib.contextmanager
    def fitting(self, low_precision: bool) -> Iterator[None]:
        """While a block is optimised: attention in the form whose gradient is the fastest.

        On CPUs torch's fused attention has a slow backward pass in bfloat16; for short windows
        the plain products are faster and their memory is small.
        """
        model = self._model
        window = 0 if self._sample is None else self._sample.shape[1]
        plain = low_precision and model.device.type == "cpu" and window <= _PLAIN_ATTENTION
        implementation = model.config._attn_implementation
        if not plain or implementation == "eager":
            yield
            return
        calls, self._calls = self._calls, {}
        model.model.set_attn_implementation("eager")
        try:
            yield
        finally:
            model.model.set_attn_implementation(implementation)
            self._calls = calls

    def inputs(self, index: int, tokens: Tensor) -> Tensor:
        """Token ids ``[batch, window]`` -> the first block's inputs ``[batch, window, hidden]``.

        Raises:
            SteppeError: blocks get arguments that depend on the text.
        """
        self._model.load_rest(head=False)
        if self._sample is None or tokens.shape[1] > self._sample.shape[1]:
            self._sample = tokens[:1].clone()
        seen: list[Tensor] = []

        def stop(*args: Any, **kwargs: Any) -> None:
            hidden, args, kwargs = take_hidden(args, kwargs)
            key = (0, *hidden.shape[:2])
            if key in self._calls:
                names = positional(self._model.blocks[0])[1:]
                check_same(self._calls[key], (args, kwargs), names)
            self._calls[key] = (args, kwargs)
            seen.append(hidden)
            raise _Stop

        with patched({0: stop}, self._model.blocks), contextlib.suppress(_Stop):
            self._model.run(tokens)
        return seen[0]

    def record(self, batch: int, window: int) -> None:
        """Learn what all blocks are called with for this shape of the hidden states."""
        assert self._sample is not None
        blocks = self._model.blocks
        if self._wrap is None:
            self._probe()
        self._model.load_rest(head=False)

        def recorder(index: int) -> Any:
            def record(*args: Any, **kwargs: Any) -> Any:
                hidden, args, kwargs = take_hidden(args, kwargs)
                self._calls[index, batch, window] = (args, kwargs)
                if index == len(blocks) - 1:
                    raise _Stop
                return self._returned(hidden)

            return record

        stand_ins = {i: recorder(i) for i in range(len(blocks))}
        with patched(stand_ins, blocks), contextlib.suppress(_Stop):
            self._model.run(self._sample[:, :window].expand(batch, window))

    def _probe(self) -> None:
        """Run the first block once, to see whether it returns a tensor or a tuple."""
        assert self._sample is not None
        absent = any(p.is_meta for p in self._model.blocks[0].parameters())
        if absent:
            self._model.load(0)
        with torch.no_grad():
            self.call(0, self.inputs(0, self._sample))
        if absent:
            self._model.free(0)

    def _returned(self, hidden: Tensor) -> Any:
        return hidden if self._wrap is None else self._wrap(hidden)

    def arguments(self, index: int, batch: int, window: int) -> Arguments:
        """What the model passes to a block beside the hidden states, for a shape of them."""
        if (index, batch, window) not in self._calls:
            if index == 0:
                assert self._sample is not None
                self.inputs(0, self._sample[:, :window].expand(batch, window))
            else:
                self.record(batch, window)
        return self._calls[index, batch, window]

    def call(self, index: int, state: Tensor, block: nn.Module | None = None) -> Tensor:
        """A block's outputs for its inputs, both ``[batch, window, hidden]``."""
        args, kwargs = self.arguments(index, state.shape[0], state.shape[1])
        returned = (block or self._model.blocks[index])(state, *args, **kwargs)
        return self.taken(returned)

    def taken(self, returned: Any) -> Tensor:
        """The hidden states in what a block returns.

        Raises:
            SteppeError: they are not there.
        """
        if isinstance(returned, Tensor):
            self._wrap = _itself
            return returned
        kind = type(returned)
        if kind not in (tuple, list) or not returned or not isinstance(returned[0], Tensor):
            raise _untrue(f"a block that returns {kind.__name__} without them in the first place")
        more = [None] * (len(returned) - 1)
        self._wrap = lambda hidden: kind([hidden, *more])
        hidden: Tensor = returned[0]
        return hidden

    def after(self, index: int, state: Tensor, tokens: Tensor) -> Tensor:
        """The next block's inputs: this one's outputs."""
        return self.call(index, state)

    def restore(self, done: int, folder: Any) -> None:
        """Nothing: the next block needs no weights of those before it."""

    def logits(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """What the model makes of the last block's outputs, ``[batch, window, vocabulary]``."""
        self._model.load_rest(head=True)

        def first(*args: Any, **kwargs: Any) -> Any:
            return self._returned(hidden)

        def through(*args: Any, **kwargs: Any) -> Any:
            return self._returned(take_hidden(args, kwargs)[0])

        blocks = self._model.blocks
        stand_ins: dict[int, Callable[..., Any]] = dict.fromkeys(range(len(blocks)), through)
        with patched(stand_ins | {0: first}, blocks):
            return answer(self._model.run(tokens))

    def head(self, hidden: Tensor) -> Tensor:
        """Final norm and output layer: the last block's outputs ``[rows, hidden]`` -> logits."""
        rows = min(self._model.positions or 2048, 2048)
        ids = torch.zeros(1, rows, dtype=torch.int64)
        parts = [self.logits(ids[:, : len(part)], part[None])[0] for part in hidden.split(rows)]
        return torch.cat(parts)


def _itself(hidden: Tensor) -> Tensor:
    return hidden


def answer(returned: Any) -> Tensor:
    """The logits in what a model returns, or its last hidden states."""
    for name in ("logits", "last_hidden_state"):
        value = getattr(returned, name, None)
        if isinstance(value, Tensor):
            return value
    first: Tensor = next(x for _, x in leaves(returned) if isinstance(x, Tensor))
    return first


def take_hidden(args: Any, kwargs: Any) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """A block's arguments: the hidden states, and all others.

    Raises:
        SteppeError: the hidden states are no tensor.
    """
    kwargs = dict(kwargs)
    hidden = args[0] if args else kwargs.pop("hidden_states", None)
    if not isinstance(hidden, Tensor):
        raise _untrue(f"a block whose first argument is {type(hidden).__name__}, no tensor")
    return hidden, tuple(args[1:]), kwargs


def _untrue(got: str) -> SteppeError:
    return SteppeError(
        "streamed blocks hand on hidden states of shape [batch, window, hidden]",
        got=got,
        way_out="--streamed never, with the whole model in memory",
    )


def check_same(known: Any, new: Any, names: Sequence[str] = ()) -> None:
    """Two windows of one length must give blocks the same arguments.

    Raises:
        SteppeError: they differ.
    """
    where = difference(known, new, names)
    if where is not None:
        raise SteppeError(
            "the arguments of decoder blocks must not depend on the text",
            got=f"arguments that differ between two windows of one length: {where}",
            consequence="they would have to be kept for every window",
            way_out="--streamed never, with the whole model in memory",
        )


def difference(known: Any, new: Any, names: Sequence[str] = ()) -> str | None:
    """Where the arguments of two calls differ; None if they are the same.

    Args:
        known: arguments beside the hidden states.
        new: those of another call.
        names: of the arguments by position.
    """
    first, second = list(leaves(known)), dict(leaves(new))
    if [place for place, _ in first] != list(second):
        return "arguments of another form"
    for place, a in first:
        b = second[place]
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            same = a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
        else:
            # configs have no value to compare
            plain = isinstance(a, int | float | str | None)
            same = type(a) is type(b) and (not plain or a == b)
        if not same:
            return named(place, names)
    return None
