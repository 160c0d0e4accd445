"""A method whose structure keeps as much of a language model as a target allows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from steppe.core.errors import SteppeError
from steppe.llm.checkpoint import folder_of
from steppe.llm.model import StreamedModel
from steppe.llm.skeleton import config_of, read_config
from steppe.llm.structured.biases import bias_flags
from steppe.llm.structured.latency import GenerationTable
from steppe.llm.structured.shape import Shape
from steppe.llm.structured.target import Target, accepted_heads, shapes
from steppe.method import Method

UNITS = "units"


def fitted(
    method: Method,
    model: str | Path,
    target: str,
    *,
    table: Path | str | None = None,
    family: str | None = None,
) -> Method:
    """The method that removes as many whole units as a target asks for.

    Of all shapes that meet it the most even one is taken, see `steppe.llm.structured.target`.

    Args:
        method: whose structure removes neurons, heads, or both; its sparsity is replaced.
        model: a folder, or a hub id; no weights are read.
        target: as text, e.g. ``parameters=0.75``.
        table: of ``steppe latency``, which a target in time needs.
        family: as which the model is written.

    Raises:
        SteppeError: no shape meets the target, or the structure removes no units.
    """
    wanted = Target.parse(target)
    if method.structure.removes != UNITS:
        raise SteppeError(
            "a target is met by removing whole neurons and heads",
            got=f"structure {method.structure.name}",
            way_out="--structure neurons+heads, or a --sparsity",
        )
    plain, folder = method.structure.to_dict(), folder_of(str(model))
    whole = Shape.of(read_config(folder))
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    times = None if table is None else GenerationTable.read(table)
    if method.solver is not None and method.solver.shifts and times is None:
        # means go to biases, which may be new: they count
        biased = StreamedModel(str(folder))
        layers = method.structure.among(biased.layers())
        stored |= bias_flags(biased, layers)
        wanted = wanted.absolute(whole)
        whole = replace(Shape.of(config_of(stored)), width=whole.width)
    heads = accepted_heads(stored, whole, family) if "heads" in plain["of"] else None
    best, *_ = shapes(
        wanted, whole, plain["of"], heads=heads, multiple=plain["round_to"], table=times
    )
    kept = {kind: int(getattr(best, kind)) for kind in plain["of"]}
    every = {kind: int(getattr(whole, kind)) for kind in kept}
    sparsity = 1 - sum(kept.values()) / sum(every.values())
    return method.replace(
        structure=plain | {"keep": [list(pair) for pair in kept.items()]},
        budget=method.budget.to_dict() | {"sparsity": sparsity},
    )
