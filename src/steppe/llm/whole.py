"""The passes of a model that is in memory whole: its own forward pass up to a block."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from steppe.core.errors import SteppeError
from steppe.engine.blockwise.call_form import (
    Arguments,
    CallForm,
    first_tensor,
    positional,
    windows_dimension,
)
from steppe.llm.architecture import OWN_LOOP
from steppe.llm.self_check import (
    LONGEST,
    ROUNDING,
    known_weights,
    plain,
    relative_error,
    sample_texts,
)
from steppe.llm.skeleton import forget, patched
from steppe.llm.weights import Weights


class _Stop(Exception):
    """Raised in the block's place: what comes after it is not needed."""


class Whole:
    """Blocks called with what the model itself gives them, whatever lies between them.

    A block's inputs are those of the model's own forward pass, in which the blocks before it are
    pruned already. What differs between windows is kept, one row of numbers for each; what is the
    same for all is kept once (`steppe.engine.blockwise.call_form.CallForm`).

    Args:
        model: its weights are read here, all of them.

    Raises:
        SteppeError: a block runs more than once, or out of turn; or text alone does not run it.
    """

    chained = False

    def __init__(self, model: Weights) -> None:
        self._model = model
        model.load_rest(head=True)
        for index in range(len(model.blocks)):
            model.read(index)
            known_weights(model, index)
        self._width: dict[int, int] = {}  # window -> numbers of a row
        self._window = 0  # of the rows made last
        self._last: tuple[tuple[int, int], _Called] | None = None
        self.skipped = self._order()

    def _order(self) -> set[int]:
        """Blocks that text alone does not reach; all others run once, one after the other."""
        model, order = self._model, list[int]()

        def counted(index: int) -> Callable[..., Any]:
            def run(*args: Any, **kwargs: Any) -> Any:
                order.append(index)
                return self._unpatched(index, args, kwargs)

            return run

        with patched({i: counted(i) for i in range(len(model.blocks))}, model.blocks):
            plain(model, sample_texts(model, 8)[0])
        for before, index in itertools.pairwise(order):
            if index <= before:
                raise SteppeError(
                    "each block must run once, one after the other",
                    got=f"{model.names[index]} after {model.names[before]}",
                    consequence="what it gets cannot be told from one pass",
                    way_out=OWN_LOOP,
                )
        if not order:
            raise SteppeError(
                "text must run the model's blocks",
                got=f"none of {model.prefix} in a pass",
                way_out=OWN_LOOP,
            )
        return set(range(len(model.blocks))) - set(order)

    def _unpatched(self, index: int, args: Any, kwargs: Any) -> Any:
        block = self._model.blocks[index]
        stand_in = block.forward
        del block.forward
        try:
            return block(*args, **kwargs)
        finally:
            block.forward = stand_in

    def _arguments(self, index: int, tokens: Tensor) -> Arguments:
        """What the model gives a block for these tokens."""
        seen: list[Arguments] = []

        def stop(*args: Any, **kwargs: Any) -> None:
            seen.append((args, kwargs))
            raise _Stop

        with patched({index: stop}, self._model.blocks), contextlib.suppress(_Stop):
            self._model.run(tokens)
        return seen[0]

    @torch.no_grad()
    def _called(self, index: int, window: int) -> _Called:
        """How a block is called with windows of this length, in the model as it is now."""
        if self._last is None or self._last[0] != (index, window):
            texts = sample_texts(self._model, window).flatten(0, 1)
            three, two = (self._arguments(index, texts[i:3]) for i in (0, 1))
            name = self._model.names[index]
            block = self._model.blocks[index]
            form = CallForm(two, three, name, positional(block))
            more, fewer = (first_tensor(block(*a, **k), name) for a, k in (three, two))
            self._last = (index, window), _Called(form, windows_dimension(more, fewer, name))
        return self._last[1]

    def state_shape(self, window: int) -> tuple[int, ...]:
        """Numbers of a window's row: what the block that gets most is given."""
        if window not in self._width:
            reached = [i for i in range(len(self._model.blocks)) if i not in self.skipped]
            self._width[window] = max(self._called(i, window).form.width for i in reached)
        return (self._width[window],)

    def inputs(self, index: int, tokens: Tensor) -> Tensor:
        """Token ids ``[batch, window]`` -> a block's rows ``[batch, numbers]``."""
        (width,) = self.state_shape(tokens.shape[1])
        if index in self.skipped:
            return torch.zeros(len(tokens), width)
        self._window = tokens.shape[1]
        form = self._called(index, tokens.shape[1]).form
        rows = form.pack(self._arguments(index, tokens))
        return pad(rows, (0, width - rows.shape[1]))

    def call(self, index: int, state: Tensor, block: nn.Module | None = None) -> Tensor:
        """A block's outputs for its rows, the windows in the first dimension."""
        called = self._called(index, self._window)
        args, kwargs = called.form.unpack(state)
        returned = (block or self._model.blocks[index])(*args, **kwargs)
        return first_tensor(returned, self._model.names[index]).movedim(called.dimension, 0)

    def after(self, index: int, state: Tensor, tokens: Tensor) -> Tensor:
        """The next block's rows, from the model's own pass."""
        return self.inputs(index + 1, tokens)

    @contextlib.contextmanager
    def fitting(self, low_precision: bool) -> Iterator[None]:
        """Nothing changes while a block is optimised: its arguments are kept as they are."""
        yield

    def restore(self, done: int, folder: Path) -> None:
        """The blocks that an earlier run pruned, from the shards that it wrote."""
        for index in range(done):
            self._model.read(index, folder)

    @torch.no_grad()
    def check(self, window: int) -> float:
        """The largest difference between blocks called from rows and those of the model's pass.

        Raises:
            SteppeError: it is more than rounding.
        """
        tokens = sample_texts(self._model, min(window, LONGEST))[1]
        worst = 0.0
        for index in range(len(self._model.blocks)):
            if index not in self.skipped:
                worst = max(worst, self._difference(index, tokens))
        return worst

    def _difference(self, index: int, tokens: Tensor) -> float:
        name, block = self._model.names[index], self._model.blocks[index]
        rows = self.inputs(index, tokens)
        args, kwargs = self._arguments(index, tokens)
        real = first_tensor(block(*args, **kwargs), name)
        real = real.movedim(self._called(index, tokens.shape[1]).dimension, 0)
        # each window by itself, in the other order
        found = torch.cat([self.call(index, rows[i : i + 1]) for i in (1, 0)]).flip(0)
        error = relative_error(found, real)
        if not error <= ROUNDING:
            raise SteppeError(
                "a block must give in the walk what it gives in the model",
                got=f"a difference of {error:.1e} in {name}",
                consequence="it keeps something from call to call, or mixes the windows",
                way_out=OWN_LOOP,
            )
        return error

    def free(self) -> None:
        """Forget all weights."""
        forget(self._model.model)


class _Called:
    """How a block is called, and which dimension of its outputs is the windows'."""

    def __init__(self, form: CallForm, dimension: int) -> None:
        self.form, self.dimension = form, dimension
