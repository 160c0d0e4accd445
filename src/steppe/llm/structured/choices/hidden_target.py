"""The width of the residual stream that a target leaves, told from a model's config."""

from __future__ import annotations

import json
from math import lcm
from pathlib import Path
from typing import Any

import torch

from steppe.core.layer import STACKED
from steppe.llm.architecture import block_names
from steppe.llm.skeleton import read_config, skeleton
from steppe.llm.structured.choice import FITTINGS
from steppe.llm.structured.family import of_family
from steppe.llm.structured.residual import refuses_width, residual_stream
from steppe.llm.structured.shape import Shape
from steppe.llm.structured.target import Target, unmeasured
from steppe.method import Method
from steppe.removal.mixtures import mixtures_of


@FITTINGS.register("hidden")
def fitted_width(method: Method, folder: Path, wanted: Target, family: str | None) -> Method:
    """The method that keeps the widest stream which meets a target and which the config can say.

    parameters(width) = what is of no dimension + width * parameters of a dimension

    Args:
        method: of structure hidden.
        folder: of the model; its config alone is read.
        wanted: parameters or bytes.
        family: as which the model is written.

    Raises:
        SteppeError: no width meets it, the whole one does, or it is a target in time.
    """
    if wanted.timed:
        raise unmeasured(["hidden"], ["blocks", "heads", "neurons"])
    config = read_config(folder)
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    written = of_family(stored, family)
    model = skeleton(config, _dtype(config))
    model.tie_weights()
    whole = _whole(model)
    wanted.check_less(whole)
    widths = _widths(method, model, whole.hidden)
    may = (n for n in widths if not refuses_width(written, n))
    widest = next(may, widths[0])  # where all are refused, this one is with the reason
    inside = {s.name for s in residual_stream(written, widest, _dtype(config)).group.slices}
    each = sum(p.numel() for n, p in model.named_parameters() if n in inside) // whole.hidden

    def narrower(width: int) -> Shape:
        lost = (whole.hidden - width) * each
        return whole.resized(hidden=width, outside=whole.outside - lost)

    allowed = wanted.allowed(whole)
    for width in widths:
        if wanted.cost(narrower(width)) <= allowed and not refuses_width(written, width):
            residual_stream(written, width, _dtype(config))  # which raises where none says it
            sparsity = {"sparsity": 1 - width / whole.hidden}
            return method.replace(budget=method.budget.to_dict() | sparsity)
    least = next((n for n in reversed(widths) if not refuses_width(written, n)), widest)
    said = f"a hidden size of {least}"
    raise wanted.out_of_reach(whole, narrower(least), said, "--structure neurons")


def _dtype(config: Any) -> torch.dtype:
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def _whole(model: Any) -> Shape:
    """The whole model's shape, all its parameters outside of blocks, which need not be alike."""
    return Shape(
        blocks=len(block_names(model)),
        neurons=0,
        heads=0,
        queries_per_key=1,
        head_size=0,
        hidden=int(model.config.get_text_config().hidden_size),
        vocabulary=int(model.get_input_embeddings().weight.shape[0]),
        outside=sum(p.numel() for p in model.parameters()),
        width=_dtype(model.config).itemsize,
    )


def _widths(method: Method, model: Any, whole: int) -> list[int]:
    """The widths that the structure rounds to, the widest first."""
    stacked = any(t.ndim == 3 for m in mixtures_of(model) for t in m.tensors.values())
    step = lcm(method.structure.to_dict()["round_to"], STACKED if stacked else 1)
    every = range(whole - 1, 0, -1)
    return [n for n in every if whole <= step or n % step == 0]
