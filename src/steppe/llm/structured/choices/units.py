"""Neurons and heads that go: pruned as a model with zeros, which is then cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from steppe.core.layer import Layer
from steppe.engine import ranks
from steppe.engine.mask_keeper import read_masks
from steppe.llm import pruning_run
from steppe.llm.model import StreamedModel
from steppe.llm.prepare import PreparedPruning, Report
from steppe.llm.structured.biases import bias_flags, with_biases
from steppe.llm.structured.choice import CHECKS, CHOOSERS, Choice
from steppe.llm.structured.cut import Cut, configured

MASKED = Path("checkpoints") / "masked"
"""Where the model lies in its old shapes, its units zero, until it is cut."""
BIASED = Path("checkpoints") / "biased"
"""Where the dense model lies with biases of zero, where the method shifts them."""


@CHECKS.register("units")
def check_config(prepared: PreparedPruning) -> None:
    """Whether a config can say the shapes that are asked for, and the biases that are needed.

    Raises:
        SteppeError: none can.
    """
    config, method, model = prepared.config, prepared.method, prepared.model
    kept = {}
    for layer in _layers(prepared):
        experts, units = method.structure.units(layer)
        lost = method.structure.count(layer, method.sparsity)
        assert lost is not None, "the shape decides how many"
        kept[layer.name] = (torch.arange(units) >= lost // experts).repeat(experts)
    configured(model, Cut(kept, tuple(model.names)), config.family, flags_of(prepared))


@CHOOSERS.register("units")
def masked(prepared: PreparedPruning, report: Report) -> Choice:
    """Prune into a folder of zeros.

    Raises:
        SteppeError: all that pruning raises.
    """
    config, model = prepared.config, prepared.model
    folder, dense = prepared.out / MASKED, model.folder
    if flags := flags_of(prepared):
        dense = (prepared.out / BIASED).resolve()  # the same from wherever a run goes on
        if ranks.first():
            with_biases(model, flags, dense)
        ranks.barrier()
    inner = PreparedPruning(dense, prepared.method, config.model_copy(update={"out": folder}))
    record = pruning_run.run(inner, report)
    before = {"parameters": model.parameters(), "bytes": model.checkpoint.bytes}
    record = record | {"dense": record["dense"] | before}
    source = StreamedModel(str(folder), prepared.device)
    return Choice(cut=Cut.of(source, read_masks(folder)), source=folder, record=record)


def _layers(prepared: PreparedPruning) -> list[Layer]:
    config = prepared.config
    every = prepared.model.layers(config.include, config.exclude)
    return prepared.method.structure.among(every)


def flags_of(prepared: PreparedPruning) -> dict[str, Any]:
    """What the config must say for the method to shift biases; nothing where it shifts none."""
    solver = prepared.method.solver
    shifted = solver is not None and solver.shifts
    return bias_flags(prepared.model, _layers(prepared)) if shifted else {}
