"""Neurons and heads that go: pruned as a model with zeros, which is then cut."""

from __future__ import annotations

from pathlib import Path

import torch

from steppe.engine.mask_keeper import read_masks
from steppe.llm import pruning_run
from steppe.llm.model import StreamedModel
from steppe.llm.prepare import PreparedPruning, Report
from steppe.llm.recover import prune_and_recover
from steppe.llm.structured.choice import CHECKS, CHOOSERS, Choice
from steppe.llm.structured.cut import Cut, configured

MASKED = Path("checkpoints") / "masked"
"""Where the model lies in its old shapes, its units zero, until it is cut."""


@CHOOSERS.register("units")
def masked(prepared: PreparedPruning, report: Report) -> Choice:
    """Prune into a folder of zeros, and recover there if that was asked for.

    Raises:
        SteppeError: all that pruning raises.
    """
    config, folder = prepared.config, prepared.out / MASKED
    inner = PreparedPruning(
        prepared.model.folder, prepared.method, config.model_copy(update={"out": folder})
    )
    record = (prune_and_recover if config.recover else pruning_run.run)(inner, report)
    source = StreamedModel(str(folder), prepared.device)
    return Choice(cut=Cut.of(source, read_masks(folder)), source=folder, record=record)


@CHECKS.register("units")
def check_config(prepared: PreparedPruning) -> None:
    """Whether a config can say the shapes that are asked for; nothing was done yet.

    Raises:
        SteppeError: none can.
    """
    config, method, model = prepared.config, prepared.method, prepared.model
    layers = method.structure.among(model.layers(config.include, config.exclude))
    kept = {}
    for layer in layers:
        units = layer.columns // layer.unit
        lost = method.structure.count(layer, method.sparsity)
        assert lost is not None, "the shape decides how many"
        kept[layer.name] = torch.arange(units) >= lost
    configured(model, Cut(kept, tuple(model.names)), config.family)
