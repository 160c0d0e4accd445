"""Perplexity of a model of which one block is in memory at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.engine import ranks
from steppe.engine.blockwise.states import Activations
from steppe.engine.host_memory import reused
from steppe.engine.progress import advanced
from steppe.llm.calibration_windows import check_vocabulary, sha256
from steppe.llm.model import StreamedModel
from steppe.llm.perplexity import token_loss
from steppe.llm.stream import answer

Advance = Callable[[int, int], None]


@torch.no_grad()
def streamed_perplexity(
    model: StreamedModel,
    tokens: Tensor,
    scratch: Path,
    batch: int = 8,
    *,
    title: str = "perplexity",
) -> dict[str, Any]:
    """Perplexity on windows that do not overlap, block after block.

    The hidden states of all windows wait in a file between two blocks; each block is read once.
    Memory: a block, the embeddings and head, one batch. Processes share the windows. A model that
    cannot be streamed is measured whole.

    Args:
        model: any causal language model.
        tokens: ids ``[windows, window]``; each window predicts its last window - 1.
        scratch: folder for the hidden states, as many bytes as 4 * tokens * hidden size.
        batch: windows that go through a block together.
        title: what is measured, for those who watch (`steppe.engine.progress.watched`).

    Returns:
        ``perplexity``, ``loss`` (nats a token), ``tokens`` (predictions), ``windows``,
        ``window``, ``stride``, ``dtype``, ``seconds`` and ``sha256`` of the ids.

    Raises:
        SteppeError: the model's own forward pass is not what a walk over its blocks gives.
    """
    check_vocabulary(tokens, model.vocabulary)
    model.decide(tokens.shape[1])
    began = time.perf_counter()
    advance = partial(advanced, title)
    way = partial(_streamed, scratch=scratch, batch=batch) if model.chained else _whole
    sums = way(model, tokens, advance=advance)
    ranks.add_up([sums])
    mean = float(sums[0] / sums[1])
    return {
        "perplexity": math.exp(mean) if mean < 700 else math.inf,
        "loss": mean,
        "tokens": int(sums[1]),
        "windows": len(tokens),
        "window": tokens.shape[1],
        "stride": tokens.shape[1],
        "dtype": str(model.dtype).removeprefix("torch."),
        "seconds": round(time.perf_counter() - began, 3),
        "sha256": sha256(tokens),
    }


def _streamed(
    model: StreamedModel, tokens: Tensor, scratch: Path, batch: int, advance: Advance
) -> Tensor:
    """Summed loss and number of targets of this process's windows, block after block."""
    states = Activations(
        scratch / "evaluation.bin", (len(tokens), *model.state_shape(tokens.shape[1]))
    )
    mine = ranks.share(len(tokens))
    parts = [slice(i, min(i + batch, mine.stop)) for i in range(mine.start, mine.stop, batch)]
    for part in parts:
        states.tensor[part] = model.embed(tokens[part]).float().cpu()
    # a window is done when it went through all blocks and the head
    done, passes = 0.0, len(model) + 1
    for index in range(len(model)):
        model.load(index)
        with reused():
            for part in parts:
                advance(int(done), len(mine))
                done += (part.stop - part.start) / passes
                hidden = states.tensor[part].to(model.device, model.dtype)
                states.tensor[part] = model.call(index, hidden).float().cpu()
        model.free(index)
    sums = torch.zeros(2, dtype=torch.float64)
    for part in parts:
        advance(int(done), len(mine))
        done += (part.stop - part.start) / passes
        # logits are few at a time, so that mappings of their own cost little
        hidden = states.tensor[part].to(model.device, model.dtype)
        loss, count = token_loss(hidden, model.head, tokens[part])
        sums += torch.tensor([loss, count], dtype=torch.float64)
    states.delete()
    advance(len(mine), len(mine))
    return sums


def _whole(model: StreamedModel, tokens: Tensor, advance: Advance) -> Tensor:
    """The same, of a model that is in memory whole: a window at a time."""
    sums = torch.zeros(2, dtype=torch.float64)
    mine = ranks.share(len(tokens))
    with reused():
        for number, window in enumerate(tokens[mine.start : mine.stop].split(1)):
            advance(number, len(mine))
            loss, count = token_loss(answer(model.run(window)), lambda logits: logits, window)
            sums += torch.tensor([loss, count], dtype=torch.float64)
    advance(len(mine), len(mine))
    return sums
