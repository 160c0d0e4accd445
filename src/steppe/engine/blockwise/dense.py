"""The dense model beside a pruned one, of which one block is in memory too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from steppe.engine import ranks
from steppe.engine.blockwise.blocks import Blocks
from steppe.engine.blockwise.states import Activations, HiddenStates
from steppe.engine.blockwise.sublayers import Call, Sublayer


class DenseModel:
    """What a pruned model is led back to: the dense one's weights and its own hidden states.

    Args:
        blocks: the dense model.
        tokens: calibration windows ``[windows, tokens]``.
        folder: where the hidden states go.
        micro_batch: windows that go through a block together.
        places: where the pruned model's blocks were in the dense one, whose shapes are others; None
            where both have the same blocks with the same shapes.
    """

    def __init__(
        self,
        blocks: Blocks,
        tokens: Tensor,
        folder: Path,
        micro_batch: int,
        places: Sequence[int] | None = None,
    ) -> None:
        self.blocks = blocks
        self.states = HiddenStates(blocks, tokens, folder, micro_batch, name="dense")
        self.alike = places is None
        """Whether tensors of one model fit the other."""
        starts = list(range(len(blocks))) if places is None else [0, *places[1:]]
        ends = [*starts[1:], len(blocks)]
        self.stands_for = [range(*pair) for pair in zip(starts, ends, strict=True)]
        """For each block of the pruned model the dense ones that it stands for: its own and those
        behind it that are gone; the first one also for what is gone before it."""

    def tensors(self, index: int) -> dict[str, Tensor] | None:
        """Name in a block -> a copy of the dense tensor; None where they would not fit."""
        if not self.alike:
            return None
        module = self.blocks.load(index)
        copies = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        self.blocks.free(index)
        return copies

    def begin(self, done: int) -> None:
        """Have the inputs of the first block that is not done.

        Args:
            done: blocks of the pruned model.

        Raises:
            SteppeError: an earlier run's are gone.
        """
        # so that it knows how blocks are called
        self.blocks.inputs(self.stands_for[done].start, self.states.tokens[:1])
        self.states.resume(done) if done else self.states.embed(0)

    def propagate(self, index: int) -> None:
        """What the dense model gives a block's next one becomes the inputs there."""
        if self.alike:
            self.blocks.load(index)
            self.states.propagate(index)
            self.blocks.free(index)
        else:
            self.through(index, self.states.of(index), self.states.of(index + 1))
        self.states.of(index + 1).flush()

    @torch.no_grad()
    def through(
        self, index: int, given: Activations, outputs: Activations, part: Sublayer | None = None
    ) -> None:
        """Hidden states through the dense blocks that a block stands for.

        Args:
            index: of the block of the pruned model.
            given: what goes in.
            outputs: what comes out.
            part: the sub-layer of the pruned block whose dense one alone is wanted.
        """
        for place in self.stands_for[index]:
            module = self.blocks.load(place)
            forward: Call = partial(_called, self.blocks, place)
            if part is not None:
                forward = replace(part, call=forward, block=module, _silence={}).forward
            for windows in self.states.slices():
                hidden = given.tensor[windows].to(self.blocks.device)
                outputs.tensor[windows] = forward(hidden, module).float().cpu()
            self.blocks.free(place)
            given = outputs
        ranks.barrier()


def _called(blocks: Blocks, place: int, state: Tensor, module: nn.Module) -> Tensor:
    return blocks.call(place, state, module)
