"""What is left of a language model when something is removed, and what finding it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.text import counted
from steppe.llm import memory
from steppe.llm.model import StreamedModel
from steppe.llm.prepare import PreparedPruning
from steppe.llm.skeleton import config_of, read_config, skeleton
from steppe.llm.structured.choice import CHECKS, EXPECTATIONS, Expected
from steppe.llm.structured.cut import CONFIG, Cut, configured
from steppe.llm.structured.cut_sizes import in_bytes, sizes
from steppe.llm.structured.latency import GenerationTable, Times
from steppe.llm.structured.offered import between, offered, said_of
from steppe.llm.structured.shape import Shape
from steppe.llm.structured.weighing import masks_of


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
        goes leaves less. ``measured``: where and with what the table was. Where it is open which of
        several shapes it will be, ``offers`` (see `steppe.llm.structured.offered`), and ``after``
        has the most parameters and bytes.

    Raises:
        SteppeError: the table is of another model, or of none that is known.
    """
    model, cut, family = prepared.model, expected.cut, prepared.config.family
    stored = json.loads((model.folder / CONFIG).read_text(encoding="utf-8"))
    changed = stored | dict(expected.flags)
    dense, biased = (skeleton(config_of(each), model.dtype) for each in (stored, changed))
    planned: dict[str, Any] = {
        "before": sizes(model, dense, Cut({}, tuple(model.names))),
        "after": sizes(model, biased, cut, family),
        "at_most": expected.at_most,
    }
    planned["before"]["said"] = f"{len(model)} blocks"
    planned["after"]["said"] = cut.said(model)
    shapes = _shapes(prepared, expected, changed)
    for name, shape in shapes.items():
        said = shape.said() + f", hidden size {shape.hidden}" * (cut.hidden is not None)
        planned[name] = asdict(shape) | planned[name] | {"said": said}
    times = None
    if table is not None:
        times = GenerationTable.read(table)
        whole = shapes.get("before") or Shape.of(read_config(model.folder))
        times.check_model(whole)
        for name, shape in ({"before": whole} | shapes).items():
            if shape.hidden == whole.hidden:  # which a table is of
                # biases take no time to speak of
                planned[name] |= _milliseconds(times.times(shape))
        planned["measured"] = times.conditions | {"text": times.text}
    if open_ := _open(expected):
        priced = in_bytes(shapes["before"], partial(_stored, prepared, dense))
        planned["offers"] = known = offered(open_, priced, times)
        most = {key: known[key][1] for key in ("parameters", "bytes")}
        planned["after"] |= most | {"said": said_of(known)}
        planned["at_most"] = True
    return planned


def _open(expected: Expected) -> Sequence[Shape]:
    """The shapes of which one will be taken; none where it is known which."""
    return expected.offers if len(expected.offers) > 1 else ()


def _stored(prepared: PreparedPruning, dense: nn.Module, shape: Shape) -> int:
    """Bytes of a model of one of several shapes."""
    names = prepared.model.names[: shape.blocks]
    return sizes(prepared.model, dense, Cut(masks_of(prepared, shape), tuple(names)))["bytes"]


def _shapes(
    prepared: PreparedPruning, expected: Expected, changed: dict[str, Any]
) -> dict[str, Shape]:
    """The shapes ``before`` and ``after``, if known; none where blocks differ from each other."""
    model, cut = prepared.model, expected.cut
    try:
        whole = Shape.of(read_config(model.folder))
        biased = replace(Shape.of(config_of(changed)), width=whole.width)
    except SteppeError:
        return {}
    if _open(expected):
        return {"before": whole}
    if cut.hidden is not None:
        config, _ = configured(model, cut, prepared.config.family)
        return {
            "before": whole,
            "after": replace(Shape.of(config_of(config)), width=whole.width),
        }
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
    before, after, known = shape["before"], shape["after"], shape.get("offers")
    said = [f"{planned['method']}: cut to {after['said']}, of {before['said']}"]
    for key in ("parameters", "bytes"):
        ends = known[key] if known else [after[key]]
        shares = between([end / before[key] for end in ends], "{:.1%}")
        most = "at most " * (shape["at_most"] and not known)
        said.append(f"  {key}: {most}{between(ends)} of {before[key]:,} ({shares})")
    said.append(f"  {_time_line(shape)}")
    return [*said, *planned["steps"]]


def _time_line(shape: dict[str, Any]) -> str:
    if "measured" not in shape:
        return "speed of the result: steppe latency MODEL, then --latency-table FILE, foretells it"
    where, before, after = shape["measured"], shape["before"], shape["after"]
    threads = f", {counted(where['threads'], 'thread')}" if where["threads"] else ""
    known = shape.get("offers", {k: [v] for k, v in after.items() if k.endswith("_ms")})
    own = f"{before['total_ms']:.4g} ms", f"{1000 / before['token_ms']:.4g}"
    if "total_ms" not in known:
        took = (
            f"{own[0]}, {own[1]} tokens/s before; of such a shape the table says nothing: "
            "steppe latency times the result"
        )
    else:
        total = between(known["total_ms"], "{:.4g}")
        speed = between([1000 / ms for ms in reversed(known["token_ms"])], "{:.4g}")
        took = f"{total} of {own[0]}, {speed} tokens/s instead of {own[1]}"
        if known.get("timed", 0) < known.get("count", 0):
            took += f" for the {known['timed']} shapes whose widths the table has"
    return (
        f"{where['text']}: {took} "
        f"(predicted; blocks were measured on {where['device']}{threads}, {where['dtype']})"
    )
