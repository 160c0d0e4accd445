"""One block pruned, or called, on trial: how long the whole run will take."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.engine.blockwise.walk import Blockwise
from steppe.llm.checkpoint import write_shard
from steppe.llm.memory import existing, layers_by_block
from steppe.llm.perplexity import token_loss
from steppe.llm.prepare import PreparedPruning

_STEPS = 3  # of optimisation on trial: targets and the last projection count little then


@contextlib.contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A temporary folder on the disk of ``out``."""
    with tempfile.TemporaryDirectory(prefix=".steppe-plan-", dir=existing(out)) as folder:
        yield Path(folder)


def pruned_block(prepared: PreparedPruning) -> dict[str, Any]:
    """The first pruned block's row of the record, with one batch of windows.

    Args:
        prepared: what to prune and how; how blocks are called is decided.
    """
    windows = _windows(prepared)
    short = dataclasses.replace(prepared.walk_config.reconstruction, epochs=_STEPS, warmup_epochs=0)
    measure = min(prepared.config.measure, windows)
    config = dataclasses.replace(prepared.walk_config, reconstruction=short, measure=measure)
    tokens = prepared.tokens[:windows] if prepared.tokens is not None and windows else None
    with beside(prepared.out) as folder:
        walk = Blockwise(
            prepared.model,
            prepared.method,
            config,
            tokens,
            folder,
            include=prepared.config.include,
            exclude=prepared.config.exclude,
            work=prepared.work,
        )
        return walk.first_block()


def _windows(prepared: PreparedPruning) -> int:
    if prepared.tokens is None:
        return 0
    config = prepared.walk_config
    optimised = prepared.method.objective.scope == "block"
    wanted = config.reconstruction.batch_size if optimised else config.micro_batch
    return min(wanted, len(prepared.tokens))


def seconds_of(
    prepared: PreparedPruning, texts: Mapping[str, Tensor], row: dict[str, Any]
) -> dict[str, float]:
    """Seconds of each part of a walk that prunes.

    Args:
        prepared: what to prune and how.
        texts: on which perplexity is measured.
        row: of the block on trial, see `pruned_block`.
    """
    windows = _windows(prepared)
    blocks, taken = len(prepared.model), row["seconds"]
    pruned = len(layers_by_block(prepared))
    seconds = {"load": taken["load"] * blocks, "write": taken["write"] * blocks}
    total = 0 if prepared.tokens is None else len(prepared.tokens)
    # a pass through a block: propagating is one, measuring errors adds two products to one
    unit = 0.0
    if windows:
        measured = min(prepared.config.measure, windows)
        unit = taken["propagate"] / (windows + 3 * measured)
        passes = total * blocks + 3 * min(prepared.config.measure, total) * pruned
        seconds["propagate"] = unit * passes
        seconds["calibrate"] = taken.get("calibrate", 0.0) * pruned * total / windows
        if prepared.method.profiled_by:
            seconds["profile"] = seconds["calibrate"] + seconds["load"]
    steps = 1.0
    if prepared.method.objective.scope == "block" and windows:
        config = prepared.walk_config.reconstruction
        trained_on = total - prepared.method.objective.judged_on(total)
        steps = -(-trained_on // config.batch_size) * config.epochs / _STEPS
        seconds["start"] = taken.get("start", 0.0) * pruned
    seconds["prune"] = taken.get("prune", 0.0) * steps * pruned
    return seconds | evaluation(prepared, texts, unit, taken["load"])


def evaluation(
    prepared: PreparedPruning, texts: Mapping[str, Tensor], unit: float, load: float
) -> dict[str, float]:
    """Seconds of measuring perplexity, before and after; nothing without a text.

    Args:
        prepared: what to prune and how.
        texts: on which it is measured.
        unit: seconds of one calibration window through a block.
        load: seconds of loading a block.
    """
    if not texts:
        return {}
    tokens = sum(t.numel() for t in texts.values())
    length = prepared.tokens.shape[1] if prepared.tokens is not None else 1
    # dense and sparse; the head is a few percent of a model's products
    return {"evaluate": 2 * (unit * tokens / length + load) * len(prepared.model)}


@torch.no_grad()
def called_block(
    prepared: PreparedPruning,
    index: int = 0,
    looking: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, float]:
    """Seconds of handling one block whose weights stay as they are.

    Args:
        prepared: what to prune and how; how blocks are called is decided.
        index: of the block; its inputs are those of the dense model, or the embeddings.
        looking: entered for passes in which something is looked at.

    Returns:
        ``load`` and ``write`` of the block; of one calibration window, where there are any,
        ``pass`` through it, ``look``, a pass while something is looked at, and ``head``, the
        loss of the next tokens.
    """
    model, tokens = prepared.model, prepared.tokens
    taken = dict[str, float]()
    some = None if tokens is None else tokens[: prepared.config.micro_batch]
    hidden = None if some is None else model.inputs(index, some)
    with _timed(taken, "load"):
        model.load(index)
    if some is not None and hidden is not None:
        model.call(index, hidden[:1])
        with _timed(taken, "pass", len(some)):
            after = model.call(index, hidden)
        with looking(), _timed(taken, "look", len(some)):
            model.call(index, hidden)
        if model.predicts and model.chained:
            with _timed(taken, "head", len(some)):
                token_loss(after, model.head, some)
    with beside(prepared.out) as folder, _timed(taken, "write"):
        write_shard(folder, 1, 1, model.stored(index))
    model.free(index)
    model.free_rest()
    return taken


@contextlib.contextmanager
def _timed(taken: dict[str, float], what: str, windows: int = 1) -> Iterator[None]:
    began = time.perf_counter()
    yield
    taken[what] = (time.perf_counter() - began) / windows
