"""What is left of a language model when whole neurons and heads are removed, in numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from steppe.core.errors import SteppeError
from steppe.llm.prepare import PreparedPruning
from steppe.llm.skeleton import config_of, read_config
from steppe.llm.structured.choices.units import flags_of
from steppe.llm.structured.latency import GenerationTable, Times
from steppe.llm.structured.shape import Shape


def planned_shape(prepared: PreparedPruning, table: Path | str | None = None) -> dict[str, Any]:
    """The shape before and after, and how long both take if a table says it.

    Args:
        prepared: of a structure that removes units.
        table: of ``steppe latency``.

    Returns:
        ``before`` and ``after``: the fields of a `Shape`, its ``parameters`` and ``bytes``,
        ``said`` in words, and with a table ``prompt_ms``, ``token_ms`` and ``total_ms``;
        ``measured``: where and with what the table was. Only ``not_known``, why, where the
        model's blocks are not alike.

    Raises:
        SteppeError: the table is of another model, or of none that is known.
    """
    try:
        whole = Shape.of(read_config(prepared.model.folder))
    except SteppeError as error:
        if table is not None:
            raise
        return {"not_known": error.got}
    config, structure = prepared.config, prepared.method.structure
    kept: dict[str, int] = {}
    for layer in structure.among(prepared.model.layers(config.include, config.exclude)):
        lost = structure.count(layer, prepared.method.sparsity)
        assert lost is not None, "the shape decides how many"
        experts, units = structure.units(layer)
        kept[layer.reads] = units - lost // experts
    if absent := [kind for kind in kept if kind not in whole.cuts]:
        return {"not_known": f"{' and '.join(absent)} of several kinds in a block"}
    stored = json.loads((prepared.model.folder / "config.json").read_text(encoding="utf-8"))
    biased = Shape.of(config_of(stored | flags_of(prepared)))
    both = {"before": whole, "after": replace(biased, width=whole.width).resized(**kept)}
    planned: dict[str, Any] = {
        name: asdict(shape)
        | {"parameters": shape.parameters, "bytes": shape.bytes, "said": shape.said()}
        for name, shape in both.items()
    }
    if table is not None:
        times = GenerationTable.read(table)
        times.check_model(whole)
        for name, shape in both.items():
            planned[name] |= _milliseconds(times.times(shape))  # biases take no time to speak of
        planned["measured"] = times.conditions | {"text": times.text}
    return planned


def _milliseconds(times: Times) -> dict[str, float]:
    return {"prompt_ms": times.prompt, "token_ms": times.token, "total_ms": times.total}


def shape_lines(planned: dict[str, Any]) -> list[str]:
    """The same for people."""
    if "not_known" in planned:
        return [f"what is left in all is not known: {planned['not_known']}"]
    before, after = planned["before"], planned["after"]
    said = [f"cut to {after['said']}, of {before['said']}"]
    for key in ("parameters", "bytes"):
        share = after[key] / before[key]
        said.append(f"  {key}: {after[key]:,} of {before[key]:,} ({share:.1%})")
    if "measured" not in planned:
        said.append("  time: steppe latency MODEL measures it, then give --latency-table FILE")
        return said
    where = planned["measured"]
    threads = f", {where['threads']} threads" if where["threads"] else ""
    said.append(
        f"  {where['text']}: {after['total_ms']:.4g} of {before['total_ms']:.4g} ms, "
        f"{1000 / after['token_ms']:.4g} tokens/s instead of {1000 / before['token_ms']:.4g} "
        f"(predicted; blocks were measured on {where['device']}{threads}, {where['dtype']})"
    )
    return said
