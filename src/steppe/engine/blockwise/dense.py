"""The dense model beside a pruned one, of which one block is in memory too."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from steppe.engine.blockwise.blocks import Blocks
from steppe.engine.blockwise.states import HiddenStates


class DenseModel:
    """What a pruned model is led back to: the dense one's weights and its own hidden states.

    Args:
        blocks: the dense model, as many blocks as the pruned one has.
        tokens: calibration windows ``[windows, tokens]``.
        folder: where the hidden states go.
        micro_batch: windows that go through a block together.
    """

    def __init__(self, blocks: Blocks, tokens: Tensor, folder: Path, micro_batch: int) -> None:
        self.blocks = blocks
        self.states = HiddenStates(blocks, tokens, folder, micro_batch, name="dense")

    def tensors(self, index: int) -> dict[str, Tensor]:
        """Name in a block -> a copy of the dense tensor."""
        module = self.blocks.load(index)
        copies = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        self.blocks.free(index)
        return copies

    def begin(self, done: int) -> None:
        """Have the inputs of the first block that is not done.

        Raises:
            SteppeError: an earlier run's are gone.
        """
        self.blocks.inputs(done, self.states.tokens[:1])  # so that it knows how blocks are called
        self.states.resume(done) if done else self.states.embed(0)

    def propagate(self, index: int) -> None:
        """What the dense model gives its next block becomes the inputs there."""
        self.blocks.load(index)
        self.states.propagate(index)
        self.states.of(index + 1).flush()
        self.blocks.free(index)
