"""Neurons and heads that go: pruned as a model with zeros, which is then cut."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.core.layer import Layer
from steppe.core.text import counted
from steppe.engine import ranks
from steppe.engine.blockwise.journal import Journal
from steppe.engine.mask_keeper import read_masks
from steppe.llm import memory, pruning_run
from steppe.llm.model import StreamedModel
from steppe.llm.plan_trial import beside, pruned_block, seconds_of
from steppe.llm.prepare import PreparedPruning, Report
from steppe.llm.said import pruned_before
from steppe.llm.structured.biases import bias_flags, with_biases
from steppe.llm.structured.choice import CHECKS, CHOOSERS, DONE, EXPECTATIONS, Choice, Expected
from steppe.llm.structured.cut import Cut, configured
from steppe.llm.tokens.sampled import of_itself

MASKED = Path("checkpoints") / "masked"
"""Where the model lies in its old shapes, its units zero, until it is cut."""
BIASED = Path("checkpoints") / "biased"
"""Where the dense model lies with biases of zero, where the method shifts them."""


@DONE.register("units")
def done_before(out: Path) -> str:
    """How many blocks were pruned in a folder."""
    blocks = len(Journal(out / MASKED / "checkpoints" / "journal.json").get("blocks", []))
    return f"done before: {counted(blocks, 'block')}" if blocks else ""


@CHECKS.register("units")
def check(prepared: PreparedPruning) -> None:
    """Whether a config can say the shapes that are asked for, and the biases that are needed.

    Raises:
        SteppeError: none can, or the pruning does not fit in memory or on the disk.
    """
    config, model = prepared.config, prepared.model
    configured(model, _as_many(prepared), config.family, flags_of(prepared))
    memory.decide(prepared, prepared.texts())


def _as_many(prepared: PreparedPruning) -> Cut:
    """As many units as will stay, the first ones of each layer."""
    kept = {}
    for layer in _layers(prepared):
        experts, units = prepared.method.structure.units(layer)
        kept[layer.name] = (torch.arange(units) < _left(prepared, layer)).repeat(experts)
    return Cut(kept, tuple(prepared.model.names))


@EXPECTATIONS.register("units")
def expected(
    prepared: PreparedPruning, texts: Mapping[str, Tensor], dry_run: bool = True
) -> Expected:
    """The first block is pruned on trial, with biases where the run begins with them."""
    flags, blocks = flags_of(prepared), len(prepared.model)
    seconds: dict[str, float] = {}
    if dry_run:
        with contextlib.ExitStack() as made:
            tried = prepared
            if flags:
                folder = made.enter_context(beside(prepared.out)) / BIASED.name
                options = {"calibration": prepared.tokens}
                config = prepared.config.model_copy(update=options)
                with_biases(prepared.model, flags, folder)
                tried = PreparedPruning(folder, prepared.method, config)
                tried.decide()
            row = pruned_block(tried)
            seconds = seconds_of(tried, texts, row)
            seconds["cut"] = (row["seconds"]["load"] + row["seconds"]["write"]) * blocks
    windows = 0 if prepared.tokens is None else len(prepared.tokens)
    steps = [f"found in one walk over {blocks} blocks with {windows} windows, then cut out"]
    return Expected(cut=_as_many(prepared), flags=flags, seconds=seconds, steps=steps)


@CHOOSERS.register("units")
def masked(prepared: PreparedPruning, report: Report) -> Choice:
    """Prune into a folder of zeros.

    Raises:
        SteppeError: all that pruning raises.
    """
    config, model = prepared.config, prepared.model
    folder, dense = prepared.out / MASKED, model.folder
    changed: dict[str, Any] = {"out": folder}
    if flags := flags_of(prepared):
        dense = (prepared.out / BIASED).resolve()  # the same from wherever a run goes on
        if ranks.first():
            with_biases(model, flags, dense)
        ranks.barrier()
    if of_itself(config.calibration):  # the dense model has written them
        changed["calibration"] = prepared.tokens
    inner = PreparedPruning(dense, prepared.method, config.model_copy(update=changed))
    record = pruning_run.run(inner, report)
    record = record | {
        "dense": record["dense"]
        | {"parameters": model.parameters(), "bytes": model.checkpoint.bytes},
        "calibration": prepared.calibration,
        "fallbacks": [*(pruned_before(model.folder) if flags else []), *record["fallbacks"]],
    }
    source = StreamedModel(str(folder), prepared.device)
    stay = {layer.name: _left(prepared, layer) for layer in _layers(prepared)}
    cut = Cut.of(source, read_masks(folder), stay)
    return Choice(cut=cut, source=folder, record=record)


def _left(prepared: PreparedPruning, layer: Layer) -> int:
    """How many units a layer reads afterwards, of each expert."""
    structure = prepared.method.structure
    lost = structure.count(layer, prepared.method.sparsity)
    assert lost is not None, "the shape decides how many"
    experts, units = structure.units(layer)
    return units - lost // experts


def _layers(prepared: PreparedPruning) -> list[Layer]:
    config = prepared.config
    every = prepared.model.layers(config.include, config.exclude)
    return prepared.method.structure.among(every)


def flags_of(prepared: PreparedPruning) -> dict[str, Any]:
    """What the config must say for the method to shift biases; nothing where it shifts none."""
    solver = prepared.method.solver
    shifted = solver is not None and solver.shifts
    return bias_flags(prepared.model, _layers(prepared)) if shifted else {}
