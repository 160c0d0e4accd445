"""A language model tried out without some of its blocks, one block in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor

from steppe.engine import ranks
from steppe.engine.blockwise.states import Activations
from steppe.engine.host_memory import reused
from steppe.llm.model import StreamedModel
from steppe.llm.perplexity import token_loss

STATES = "trials.bin"
"""The file of the hidden states of all models that are tried at once."""


class StreamedTrials:
    """The model without the blocks that are gone, and models that lack one more block.

    A block is loaded once for all of these models. Those that lack a block which is still to come
    are one up to there: they share its hidden states, which wait in a file.

    Args:
        model: whose blocks are called one after the other.
        tokens: windows ``[windows, tokens]``.
        folder: where the file goes.
        batch: windows that go through a block together.
        may_go: blocks that may be left out.
        watch: told after each block how many passes through one are done, and of how many.
    """

    def __init__(
        self,
        model: StreamedModel,
        tokens: Tensor,
        folder: Path,
        batch: int,
        may_go: Collection[str],
        watch: Callable[[int, int], None] = lambda done, of: None,
    ) -> None:
        self._model, self._tokens, self._folder, self._batch = model, tokens, folder, batch
        self._watch = watch
        self.left = list(model.names)
        self.may_go = [name for name in self.left if name in may_go]

    def remove(self, name: str) -> None:
        """A block is gone from now on."""
        self.left.remove(name)
        self.may_go.remove(name)

    @torch.no_grad()
    def changes(self, how: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
        """See `steppe.core.protocols.BlockTrials`."""
        states = self._begun(1)
        sums = {name: torch.zeros(2, dtype=torch.float64) for name in self.left}
        for done, name in enumerate(self.left):
            self._watch(done, len(self.left))
            index = self._model.names.index(name)
            self._model.load(index)
            with reused():
                for part in self._parts():
                    before = states.tensor[0, part].to(self._model.device, copy=True)
                    after = self._through(index, states, 0, part)
                    each = how(before, after)
                    said = [float(each.double().sum()), each.numel()]
                    sums[name] = sums[name] + torch.tensor(said, dtype=torch.float64)
            self._model.free(index)
        states.delete()
        return {name: _mean(sums[name]) for name in self.may_go}

    @torch.no_grad()
    def losses(self) -> dict[str, float]:
        """See `steppe.core.protocols.BlockTrials`."""
        states, begun = self._begun(len(self.may_go)), [0]
        # all others left what they share before the last that may go, which it is left out of
        last, done, of = self.may_go[-1], 0, passes_of_losses(self.left, self.may_go)
        for name in self.left:
            index = self._model.names.index(name)
            passing = list(begun)
            if name == last:
                passing.remove(0)
            elif name in self.may_go:
                begun.append(len(begun))
                for part in self._parts():
                    states.tensor[begun[-1], part] = states.tensor[0, part]
            if not passing:
                continue
            self._watch(done, of)
            self._model.load(index)
            with reused():
                for slot in passing:
                    for part in self._parts():
                        self._through(index, states, slot, part)
            self._model.free(index)
            done += len(passing)
        slots = [*range(1, len(self.may_go)), 0]
        losses = {
            name: self._loss(states, slot) for name, slot in zip(self.may_go, slots, strict=True)
        }
        states.delete()
        return losses

    def _begun(self, models: int) -> Activations:
        """Room for the hidden states of so many models, those of the first one embedded."""
        windows, window = self._tokens.shape
        shape = (models, windows, *self._model.state_shape(window))
        states = Activations(self._folder / STATES, shape)
        for part in self._parts():
            states.tensor[0, part] = self._model.embed(self._tokens[part]).float().cpu()
        return states

    def _parts(self) -> Sequence[slice]:
        mine, size = ranks.share(len(self._tokens)), self._batch
        return [slice(i, min(i + size, mine.stop)) for i in range(mine.start, mine.stop, size)]

    def _through(self, index: int, states: Activations, slot: int, part: slice) -> Tensor:
        hidden = states.tensor[slot, part].to(self._model.device, self._model.dtype)
        given = self._model.call(index, hidden)
        states.tensor[slot, part] = given.float().cpu()
        return given

    def _loss(self, states: Activations, slot: int) -> float:
        sums = torch.zeros(2, dtype=torch.float64)
        for part in self._parts():
            hidden = states.tensor[slot, part].to(self._model.device, self._model.dtype)
            said = token_loss(hidden, self._model.head, self._tokens[part])
            sums += torch.tensor(said, dtype=torch.float64)
        return _mean(sums)


def passes_of_losses(left: Sequence[str], may_go: Sequence[str]) -> int:
    """Passes through a block until the loss without each that may go is known.

    Args:
        left: the blocks of the model.
        may_go: of these; in their order, and one at least.

    Example:
        >>> passes_of_losses("abc", "abc")  # a, b; b and c without a, c without b
        5
    """
    behind = len(left) - 1
    return behind + sum(behind - left.index(name) for name in may_go[:-1])


class CountedTrials:
    """Trials of which only the cost is counted; no block is rated higher than another.

    Args:
        names: of the model's blocks.
        may_go: those that may be left out.
    """

    def __init__(self, names: Sequence[str], may_go: Collection[str]) -> None:
        self.left = list(names)
        self.may_go = [name for name in self.left if name in may_go]
        self.loads = self.passes = self.heads = 0

    def remove(self, name: str) -> None:
        """A block is gone from now on."""
        self.left.remove(name)
        self.may_go.remove(name)

    def changes(self, how: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
        """See `steppe.core.protocols.BlockTrials`."""
        self.loads += len(self.left)
        self.passes += len(self.left)
        return dict.fromkeys(self.may_go, 0.0)

    def losses(self) -> dict[str, float]:
        """See `steppe.core.protocols.BlockTrials`."""
        self.loads += len(self.left)
        self.passes += passes_of_losses(self.left, self.may_go)
        self.heads += len(self.may_go)
        return dict.fromkeys(self.may_go, 0.0)


def _mean(sums: Tensor) -> float:
    """Of a sum and a number, over all processes."""
    ranks.add_up([sums])
    return float(sums[0] / sums[1])
