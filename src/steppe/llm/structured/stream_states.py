"""Where a walk over the blocks begins that looks at the norms of the residual stream."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from steppe.engine import ranks
from steppe.engine.blockwise.states import HiddenStates
from steppe.llm.model import StreamedModel


def begun(
    model: StreamedModel, states: HiddenStates, done: int, kept: Tensor | None = None
) -> None:
    """Make the inputs of the first block that is not done ready.

    Args:
        model: whose blocks are walked over.
        states: its hidden states.
        done: so many blocks are.
        kept: ``[hidden size]`` booleans: the embeddings are zero elsewhere.

    Raises:
        SteppeError: the states to go on from are gone.
    """
    model.inputs(0, states.tokens[:1])  # so that it knows how blocks are called
    if done:
        states.resume(done)
        return
    states.embed(0)
    if kept is not None:
        for windows in states.slices():
            states.of(0).tensor[windows] *= kept
        states.of(0).flush()
        ranks.barrier()


def inside(model: StreamedModel, index: int, names: Iterable[str]) -> list[str]:
    """Those of some names that are in a block, as it has them.

    Args:
        model: with all of them.
        index: of the block.
        names: of tensors or modules.
    """
    front = f"{model.names[index]}."
    return [n.removeprefix(front) for n in names if n.startswith(front)]
