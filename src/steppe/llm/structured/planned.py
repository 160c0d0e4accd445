"""What is left of a language model when something is removed, and what finding it takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.neurons import beside
from steppe.llm import memory
from steppe.llm.model import StreamedModel
from steppe.llm.prepare import PreparedPruning
from steppe.llm.skeleton import config_of, read_config, skeleton
from steppe.llm.structured.choice import CHECKS, EXPECTATIONS, Expected
from steppe.llm.structured.cut import CONFIG, Cut
from steppe.llm.structured.latency import GenerationTable, Times
from steppe.llm.structured.shape import Shape


def with_all(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Parts and, under ``all``, their sum."""
    return {**parts, "all": sum(parts.values())}


def planned_removal(
    prepared: PreparedPruning, dry_run: bool = True, table: Path | str | None = None
) -> dict[str, Any]:
    """What `steppe.prune` would need and make where something is really gone.

    Args:
        prepared: what is removed from which model.
        dry_run: measure times, of one block; without it there are none.
        table: of ``steppe latency``.

    Returns:
        ``memory_bytes``, ``device_bytes`` and ``disk_bytes`` (parts and ``all``), ``available``,
        ``seconds`` (parts and ``all``), ``blocks``, ``shape`` (see `planned_shape`), ``steps``
        (sentences on how it is found what goes) and ``not_in_the_model``.

    Raises:
        SteppeError: it cannot be, or it cannot fit.
    """
    kind = prepared.method.structure.removes
    assert kind is not None, "nothing is removed"
    if kind not in EXPECTATIONS:
        raise SteppeError(
            "a plan is of removals whose way is known beforehand",
            got=f"structure {prepared.method.structure.name}",
            way_out="steppe prune, which refuses at once what does not fit",
        )
    prepared.check_layers()
    texts = prepared.texts()
    if kind in CHECKS:
        CHECKS[kind](prepared)
    needed = memory.decide(prepared, texts)
    expected = EXPECTATIONS[kind](prepared, texts, dry_run)
    shape = planned_shape(prepared, expected, table)
    # beside a model with zeros, where there is one on the way
    result = "the smaller model" if prepared.masks else "shards"
    disk = needed["disk"] | {result: shape["after"]["bytes"]}
    memory.check(prepared, {"host": {}, "device": {}, "disk": disk})
    planned = {
        "method": prepared.method.name,
        "memory_bytes": with_all(needed["host"]),
        "device_bytes": with_all(needed["device"]) if needed["device"] else {},
        "disk_bytes": with_all(disk),
        "available_bytes": memory.available(prepared.out, prepared.device),
        "blocks": len(prepared.model),
        "shape": shape,
        "steps": list(expected.steps),
        "not_in_the_model": prepared.model.unused(),
    }
    return planned | ({"seconds": with_all(expected.seconds)} if dry_run else {})


def planned_shape(
    prepared: PreparedPruning, expected: Expected, table: Path | str | None = None
) -> dict[str, Any]:
    """The shape before and after, and how long both take if a table says it.

    Args:
        prepared: of a structure that removes something.
        expected: what will stay.
        table: of ``steppe latency``.

    Returns:
        ``before`` and ``after``: ``parameters``, ``bytes`` of the tensors as they are stored,
        ``said`` in words; the fields of a `Shape` where the model's blocks are alike; with a table
        ``prompt_ms``, ``token_ms`` and ``total_ms``. ``at_most``: whether another choice of what
        goes leaves less. ``measured``: where and with what the table was.

    Raises:
        SteppeError: the table is of another model, or of none that is known.
    """
    model, cut = prepared.model, expected.cut
    stored = json.loads((model.folder / CONFIG).read_text(encoding="utf-8"))
    changed = stored | dict(expected.flags)
    everything = Cut({}, tuple(model.names))
    planned: dict[str, Any] = {
        "before": _sizes(model, skeleton(config_of(stored), model.dtype), everything),
        "after": _sizes(model, skeleton(config_of(changed), model.dtype), cut),
        "at_most": expected.at_most,
    }
    planned["before"]["said"] = f"{len(model)} blocks"
    planned["after"]["said"] = cut.said(model)
    shapes = _shapes(prepared, expected, changed)
    for name, shape in shapes.items():
        planned[name] = asdict(shape) | planned[name] | {"said": shape.said()}
    if table is not None:
        times = GenerationTable.read(table)
        whole = shapes.get("before") or Shape.of(read_config(model.folder))
        times.check_model(whole)
        for name, shape in shapes.items():
            planned[name] |= _milliseconds(times.times(shape))  # biases take no time to speak of
        planned["measured"] = times.conditions | {"text": times.text}
    return planned


def _sizes(model: StreamedModel, before: nn.Module, cut: Cut) -> dict[str, int]:
    """Parameters that a cut leaves of a model, and their bytes; what is tied counts once.

    Args:
        model: as it is stored.
        before: without weights, perhaps with biases that the stored one has not.
        cut: what stays.
    """
    stays = cut.plan(before).stays
    gone = tuple(f"{name}." for name in model.names if name not in cut.blocks)
    parameters = {name for name, _ in before.named_parameters(remove_duplicate=False)}
    own = {name for name, _ in model.model.named_parameters(remove_duplicate=False)}
    sizes = {"parameters": 0, "bytes": 0}
    stored = before.state_dict()  # with the buffers that are stored
    for name in sorted(model.stored_names(stored) & stored.keys()):
        if name.startswith(gone):
            continue
        shape = list(stored[name].shape)
        for dim, index in stays.get(name, {}).items():
            shape[dim] = index.shape[-1]
        added = name in parameters and name not in own
        dtype = model.stored_dtype(beside(name, "weight") if added else name)
        sizes["parameters"] += math.prod(shape) * (name in parameters)
        sizes["bytes"] += math.prod(shape) * dtype.itemsize
    return sizes


def _shapes(
    prepared: PreparedPruning, expected: Expected, changed: dict[str, Any]
) -> dict[str, Shape]:
    """The shapes ``before`` and ``after``; none where one shape is not that of all blocks."""
    model, cut = prepared.model, expected.cut
    try:
        whole = Shape.of(read_config(model.folder))
        biased = replace(Shape.of(config_of(changed)), width=whole.width)
    except SteppeError:
        return {}
    kept = _counted(model, cut)
    if not set(kept) <= set(whole.cuts):
        return {}
    return {"before": whole, "after": biased.resized(**kept)}


def _counted(model: StreamedModel, cut: Cut) -> dict[str, int]:
    """Kind of what is fewer -> how many of it stay, in each block."""
    readers = {layer.name: layer for layer in model.layers() if layer.reads}
    kept = {"blocks": len(cut.blocks)}
    for name, alive in cut.kept.items():
        layer = readers[name]
        kept[layer.reads] = int(alive.sum()) // (layer.shape[0] if layer.stacked else 1)
    for alive in cut.experts.values():
        kept["experts"] = int(alive.sum())
    return kept


def _milliseconds(times: Times) -> dict[str, float]:
    return {"prompt_ms": times.prompt, "token_ms": times.token, "total_ms": times.total}


def shape_lines(planned: dict[str, Any]) -> list[str]:
    """The same for people.

    Args:
        planned: see `planned_removal`.
    """
    shape = planned["shape"]
    before, after, most = shape["before"], shape["after"], "at most " * shape["at_most"]
    said = [f"{planned['method']}: cut to {after['said']}, of {before['said']}"]
    for key in ("parameters", "bytes"):
        share = after[key] / before[key]
        said.append(f"  {key}: {most}{after[key]:,} of {before[key]:,} ({share:.1%})")
    said.append(f"  {_time_line(shape)}")
    return [*said, *planned["steps"]]


def _time_line(shape: dict[str, Any]) -> str:
    before, after = shape["before"], shape["after"]
    if "measured" not in shape:
        return "time: steppe latency MODEL measures it, then give --latency-table FILE"
    where = shape["measured"]
    threads = f", {where['threads']} threads" if where["threads"] else ""
    return (
        f"{where['text']}: {after['total_ms']:.4g} of {before['total_ms']:.4g} ms, "
        f"{1000 / after['token_ms']:.4g} tokens/s instead of {1000 / before['token_ms']:.4g} "
        f"(predicted; blocks were measured on {where['device']}{threads}, {where['dtype']})"
    )
