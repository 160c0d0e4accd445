"""A method whose structure keeps as much of a language model as a target allows."""

from __future__ import annotations

import json
from dataclasses import replace
from math import lcm
from pathlib import Path
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.layer import STACKED
from steppe.llm.checkpoint import folder_of
from steppe.llm.model import StreamedModel
from steppe.llm.skeleton import config_of, read_config
from steppe.llm.structured.biases import bias_flags
from steppe.llm.structured.choice import FITTINGS
from steppe.llm.structured.depth import may_go
from steppe.llm.structured.latency import GenerationTable
from steppe.llm.structured.shape import Shape
from steppe.llm.structured.target import Target, accepted_experts, accepted_heads, shapes
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
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
) -> Method:
    """The method that removes as many whole units as a target asks for.

    Of all shapes that meet it the most even one is taken, see `steppe.llm.structured.target`.

    Args:
        method: whose structure removes neurons and heads, blocks, experts or dimensions of the
            residual stream; its sparsity is replaced.
        model: a folder, or a hub id; no weights are read.
        target: as text, e.g. ``parameters=0.75``.
        table: of ``steppe latency``, which a target in time needs, and no other.
        family: as which the model is written.
        include, exclude: patterns of what is pruned; see `steppe.llm.prune_config`.

    Raises:
        SteppeError: no shape meets the target, the structure removes no such units, or patterns
            leave too few of them.
    """
    wanted, plain = Target.parse(target), method.structure.to_dict()
    removes = method.structure.removes or ""
    kinds = (*plain.get("of", ()), *COUNTED.get(removes, ()))
    if not removes or not (kinds or removes in FITTINGS):
        raise _removes_none(method)
    if table is not None and not wanted.timed:
        raise _untimed(table, target)
    folder = folder_of(str(model))
    if removes in FITTINGS:
        return FITTINGS[removes](method, folder, wanted, family)
    whole = Shape.of(read_config(folder))
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    times = None if table is None else GenerationTable.read(table)
    patterns = include, exclude
    if method.solver is not None and method.solver.shifts and not wanted.timed:
        # means go to biases, which may be new: they count, but take no time to speak of
        dense = StreamedModel(str(folder))
        stored |= bias_flags(dense, method.structure.among(dense.layers(*patterns)))
        wanted = wanted.absolute(whole)
        whole = replace(Shape.of(config_of(stored)), width=whole.width)
    accepted = {
        "heads": accepted_heads(stored, whole, family) if "heads" in kinds else None,
        "experts": accepted_experts(stored, whole)
        if "experts" in kinds and "experts" in whole.cuts
        else None,
    }
    multiple = lcm(plain.get("round_to", 1), STACKED if whole.experts else 1)
    met = shapes(wanted, whole, kinds, multiple=multiple, table=times, **accepted)
    best = met[0]
    kept = {kind: int(getattr(best, kind)) for kind in kinds}
    may = {kind: int(getattr(whole, kind)) for kind in kinds}
    if any(patterns):
        may |= _left_by(method, StreamedModel(str(folder)), *patterns)
    lost = sum(int(getattr(whole, kind)) - n for kind, n in kept.items())
    if lost > sum(may.values()):
        raise SteppeError(
            "a target is met by what patterns leave to be removed",
            got=f"{target}, for which {lost} {kinds[0]} go, of {sum(may.values())} that may",
            way_out="a larger --target, or fewer patterns",
        )
    if "shapes" in plain:  # of which measuring finds the best
        plain["shapes"] = [[s.blocks, s.neurons, s.heads] for s in met]
        return _with(method, plain, 1 - best.blocks * best.block / (whole.blocks * whole.block))
    if "keep" in plain:
        plain["keep"] = [list(pair) for pair in kept.items()]
    # a sparsity is below 1, also where all that may go goes: counts are rounded
    return _with(method, plain, min(lost, sum(may.values()) - 0.25) / sum(may.values()))


def _removes_none(method: Method) -> SteppeError:
    return SteppeError(
        "a target is met by removing whole neurons, heads, experts, blocks or dimensions",
        got=f"structure {method.structure.name}",
        way_out="method slim, depth, reap or hidden; or a --sparsity",
    )


def _untimed(table: Path | str, target: str) -> SteppeError:
    return SteppeError(
        "a table of times is for a target in time",
        got=f"{table} with target {target}",
        way_out="target latency=0.7, or no table",
    )


def _with(method: Method, structure: dict[str, Any], sparsity: float) -> Method:
    budget = method.budget.to_dict() | {"sparsity": sparsity}
    return method.replace(structure=structure, budget=budget)


def _left_by(
    method: Method, model: StreamedModel, include: tuple[str, ...], exclude: tuple[str, ...]
) -> dict[str, int]:
    """Of what a structure counts, how many patterns leave to it, where these may be fewer.

    Raises:
        SteppeError: they leave out some layers of units of which each block loses as many.
    """
    if method.structure.removes == "blocks":
        return {"blocks": len(may_go(model, include, exclude))}
    every, left = (method.structure.among(model.layers(*p)) for p in (((), ()), (include, exclude)))
    names = {layer.name for layer in left}
    if absent := [layer.name for layer in every if layer.name not in names]:
        raise SteppeError(
            "a target counts what all blocks lose",
            got=f"patterns that leave out {absent[0]}"
            + f" and {len(absent) - 1} more" * (len(absent) > 1),
            way_out="no such pattern, or a --sparsity",
        )
    return {}
