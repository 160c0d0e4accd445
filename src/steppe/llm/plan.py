"""What a pruning will take, from the model's shapes and one block that is pruned on trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import LevelBudget
from steppe.engine.blockwise.allocation import counts_of, sizes_of
from steppe.llm.memory import available, decide, layers_by_block
from steppe.llm.packed_plan import packed_line, packed_plan
from steppe.llm.plan_trial import pruned_block, seconds_of
from steppe.llm.prepare import PreparedPruning
from steppe.llm.structured.planned import planned_removal, shape_lines, with_all

_WORTH_SAYING = 1e-4  # zeros that any trained model has by rounding are fewer


def plan(
    prepared: PreparedPruning, dry_run: bool = True, latency_table: Path | str | None = None
) -> dict[str, Any]:
    """What `prune` would need and make.

    The first block is loaded, pruned with one batch of windows (three optimisation steps for
    SAFE and ADMM, all layers once for layer solvers) and written into a temporary folder beside
    ``--out``, which is removed. Times are those of this trial, for as many blocks and windows as
    there are.

    Args:
        prepared: what to prune and how.
        dry_run: measure times; without it there are none.
        latency_table: of ``steppe latency``: how long the model takes where something is removed.

    Returns:
        ``memory_bytes``, ``device_bytes`` and ``disk_bytes`` (parts and ``all``), ``available``,
        ``seconds`` (parts and ``all``), ``layers``, ``blocks``, ``zeros``, ``zeros_by_kind``,
        ``packed`` (see `steppe.llm.packed_plan.packed_plan`) and
        ``not_in_the_model`` (what is copied as it is); ``sparsity_before`` of the block on trial.
        Where something is really gone, see `steppe.llm.structured.planned.planned_removal`.

    Raises:
        SteppeError: it cannot fit; names what, how much and the way out.
    """
    if prepared.config.recover:
        raise SteppeError(
            "a plan is of the pruning alone",
            got="--recover",
            way_out="leave it out; a recovery needs the memory of two blocks and their training",
        )
    if prepared.method.structure.removes is not None:
        return planned_removal(prepared, dry_run, latency_table)
    layers = [layer for inside in layers_by_block(prepared).values() for layer in inside]
    prepared.check_layers()
    texts = prepared.texts()
    needed = decide(prepared, texts)
    planned: dict[str, Any] = {
        "method": prepared.method.name,
        "memory_bytes": with_all(needed["host"]),
        "device_bytes": with_all(needed["device"]) if needed["device"] else {},
        "disk_bytes": with_all(needed["disk"]),
        "available_bytes": available(prepared.out, prepared.device),
        "blocks": len(prepared.model),
        "layers": len(layers),
        **_zeros(prepared),
        "packed": packed_plan(
            layers, _counts(prepared, layers), prepared.model.stored_dtype(layers[0].name)
        ),
        "not_in_the_model": prepared.model.unused(),
    }
    if dry_run:
        row = pruned_block(prepared)
        planned["seconds"] = with_all(seconds_of(prepared, texts, row))
        weights = [torch.Size(x["shape"]).numel() for x in row["layers"]]
        before = [x["sparsity_before"] * n for x, n in zip(row["layers"], weights, strict=True)]
        planned["sparsity_before"] = sum(before) / sum(weights)
    return planned


def _zeros(prepared: PreparedPruning) -> dict[str, Any]:
    """Weights that will be exactly zero, in all and for each kind of layer."""
    layers = [layer for inside in layers_by_block(prepared).values() for layer in inside]
    zeros, kinds = _counts(prepared, layers), dict[str, int]()
    for layer in layers:
        kind = layer.name.removeprefix(f"{layer.block}.").removesuffix(".weight")
        kinds[kind] = kinds.get(kind, 0) + zeros[layer.name]
    zeros_of: dict[str, Any] = {
        "zeros": sum(kinds.values()),
        "weights": sum(x.numel for x in layers),
    }
    # a budget that looks at the model first moves zeros between layers
    moved = prepared.method.profiled_by or isinstance(prepared.method.budget, LevelBudget)
    zeros_of["zeros_by_kind"] = {} if moved else kinds
    return zeros_of


def _counts(prepared: PreparedPruning, layers: list[Layer]) -> dict[str, int]:
    """Zeros of each layer; a budget that looks at the model first moves them."""
    counts = counts_of(prepared.method, layers, dict.fromkeys((x.name for x in layers), 0.0))
    sizes = sizes_of(prepared.method, layers)
    return {x.name: counts[x.name] * (x.numel // sizes[x.name]) for x in layers}


def lines(planned: dict[str, Any], out: Path) -> list[str]:
    """A plan for people."""
    free = planned["available_bytes"]
    said = shape_lines(planned) if "shape" in planned else _zero_lines(planned)
    said += [f"copied as it is, dense: {x}" for x in planned["not_in_the_model"]]
    for key, which, word in (
        ("memory_bytes", "host", "memory"),
        ("device_bytes", "device", "device memory"),
        ("disk_bytes", "disk", f"disk for {out}"),
    ):
        if planned[key]:
            there = f"{_gib(planned[key]['all'])} of {_gib(free[which])} available"
            said.append(f"{word}: {there}{_most(planned[key])}")
            said += [f"  {n}: {_gib(b)}" for n, b in planned[key].items() if n != "all"]
    if "seconds" in planned:
        seconds = planned["seconds"]
        said.append(f"time of the work: {_clock(seconds['all'])}{_most(seconds)}")
        said += [f"  {n}: {_clock(s)}" for n, s in seconds.items() if n != "all"]
    return said


def _most(parts: dict[str, Any]) -> str:
    """Which part is the largest, in words; "" where there is one."""
    each = {name: size for name, size in parts.items() if name != "all"}
    return f", the most for {max(each, key=lambda n: each[n])}" if len(each) > 1 else ""


def _zero_lines(planned: dict[str, Any]) -> list[str]:
    said = [
        f"{planned['method']}: {planned['zeros']:,} of {planned['weights']:,} weights "
        f"will be zero, in {planned['layers']} layers of {planned['blocks']} blocks"
    ]
    said += [f"  {kind}: {zeros:,}" for kind, zeros in planned["zeros_by_kind"].items()]
    if planned.get("sparsity_before", 0.0) >= _WORTH_SAYING:
        said.append(
            f"of the first block {planned['sparsity_before']:.2%} are zero already: "
            "they count, and stay zero unless --regrow is given"
        )
    return [*said, packed_line(planned["packed"])]


def _gib(size: float) -> str:
    """In GiB; what is less than a tenth of one in MiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 0.1 * 2**30 else f"{size / 2**20:.1f} MiB"


def _clock(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
