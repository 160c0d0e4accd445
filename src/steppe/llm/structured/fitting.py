"""A method whose structure keeps as much of a language model as a target allows."""

from __future__ import annotations

import json
from dataclasses import replace
from math import lcm
from pathlib import Path

from steppe.core.errors import SteppeError
from steppe.core.layer import STACKED
from steppe.llm.checkpoint import folder_of
from steppe.llm.model import StreamedModel
from steppe.llm.skeleton import config_of, read_config
from steppe.llm.structured.biases import bias_flags
from steppe.llm.structured.latency import GenerationTable
from steppe.llm.structured.shape import Shape
from steppe.llm.structured.target import Target, accepted_heads, shapes
from steppe.method import Method

COUNTED = {"blocks": ("blocks",), "experts": ("experts",), "depth and width": ("blocks",)}
"""`Structure.removes` -> the kinds that it removes beside those that its options name."""


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
        method: whose structure removes neurons and heads, blocks or experts; its sparsity is
            replaced.
        model: a folder, or a hub id; no weights are read.
        target: as text, e.g. ``parameters=0.75``.
        table: of ``steppe latency``, which a target in time needs.
        family: as which the model is written.

    Raises:
        SteppeError: no shape meets the target, or the structure removes no such units.
    """
    wanted, plain = Target.parse(target), method.structure.to_dict()
    kinds = (*plain.get("of", ()), *COUNTED.get(method.structure.removes or "", ()))
    if method.structure.removes is None or not kinds:
        raise SteppeError(
            "a target is met by removing whole neurons, heads, experts or blocks",
            got=f"structure {method.structure.name}",
            way_out="method slim, depth or reap; or a --sparsity",
        )
    folder = folder_of(str(model))
    whole = Shape.of(read_config(folder))
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    times = None if table is None else GenerationTable.read(table)
    if method.solver is not None and method.solver.shifts and times is None:
        # means go to biases, which may be new: they count
        dense = StreamedModel(str(folder))
        stored |= bias_flags(dense, method.structure.among(dense.layers()))
        wanted = wanted.absolute(whole)
        whole = replace(Shape.of(config_of(stored)), width=whole.width)
    heads = accepted_heads(stored, whole, family) if "heads" in kinds else None
    multiple = lcm(plain.get("round_to", 1), STACKED if whole.experts else 1)
    met = shapes(wanted, whole, kinds, heads=heads, multiple=multiple, table=times)
    best = met[0]
    kept = {kind: int(getattr(best, kind)) for kind in kinds}
    sparsity = 1 - sum(kept.values()) / sum(int(getattr(whole, kind)) for kind in kinds)
    if "shapes" in plain:  # of which measuring finds the best
        plain["shapes"] = [[s.blocks, s.neurons, s.heads] for s in met]
        sparsity = 1 - best.blocks * best.block / (whole.blocks * whole.block)
    elif "keep" in plain:
        plain["keep"] = [list(pair) for pair in kept.items()]
    return method.replace(structure=plain, budget=method.budget.to_dict() | {"sparsity": sparsity})
