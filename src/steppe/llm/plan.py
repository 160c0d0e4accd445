"""What a pruning will take, from the model's shapes and one block that is pruned on trial."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import LevelBudget
from steppe.engine.blockwise.allocation import counts_of, sizes_of
from steppe.engine.blockwise.walk import Blockwise
from steppe.llm.memory import available, decide, existing, layers_by_block
from steppe.llm.packed_plan import packed_line, packed_plan
from steppe.llm.prepare import PreparedPruning
from steppe.llm.structured.choices.units import flags_of
from steppe.llm.structured.planned import planned_shape, shape_lines

_WORTH_SAYING = 1e-4  # zeros that any trained model has by rounding are fewer
_STEPS = 3  # of optimisation on trial: targets and the last projection count little then


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
        latency_table: of ``steppe latency``: how long the model takes where units are removed.

    Returns:
        ``memory_bytes``, ``device_bytes`` and ``disk_bytes`` (parts and ``all``), ``available``,
        ``seconds`` (parts and ``all``), ``layers``, ``blocks``, ``zeros``, ``zeros_by_kind``,
        ``packed`` (see `steppe.llm.packed_plan.packed_plan`) and
        ``not_in_the_model`` (what is copied as it is); ``sparsity_before`` of the block on trial;
        where units are removed, ``shape`` (see `steppe.llm.structured.planned.planned_shape`).

    Raises:
        SteppeError: it cannot fit; names what, how much and the way out.
    """
    if prepared.config.recover:
        raise SteppeError(
            "a plan is of the pruning alone",
            got="--recover",
            way_out="leave it out; a recovery needs the memory of two blocks and their training",
        )
    if prepared.method.structure.removes not in (None, "units"):
        raise SteppeError(
            "a plan is of what is pruned layer by layer",
            got=f"structure {prepared.method.structure.name}",
            way_out="steppe prune, which refuses at once what does not fit",
        )
    if prepared.method.structure.removes == "units" and dry_run and flags_of(prepared):
        raise SteppeError(
            "a plan tries a block as the model has it",
            got=f"method {prepared.method.name}, for which the model first gets biases",
            way_out="method slim; or steppe prune, which refuses at once what does not fit",
        )
    layers = [layer for inside in layers_by_block(prepared).values() for layer in inside]
    prepared.check_layers()
    texts = prepared.texts()
    needed = decide(prepared, texts)
    planned: dict[str, Any] = {
        "method": prepared.method.name,
        "memory_bytes": _with_all(needed["host"]),
        "device_bytes": _with_all(needed["device"]) if needed["device"] else {},
        "disk_bytes": _with_all(needed["disk"]),
        "available_bytes": available(prepared.out, prepared.device),
        "blocks": len(prepared.model),
        "layers": len(layers),
        **_zeros(prepared),
        "packed": packed_plan(
            layers, _counts(prepared, layers), prepared.model.stored_dtype(layers[0].name)
        ),
        "not_in_the_model": prepared.model.unused(),
    }
    if prepared.method.structure.removes == "units":
        planned["shape"] = planned_shape(prepared, latency_table)
    if dry_run:
        row = _trial(prepared, _trial_windows(prepared))
        planned["seconds"] = _with_all(_seconds(prepared, texts, row))
        weights = [torch.Size(x["shape"]).numel() for x in row["layers"]]
        before = [x["sparsity_before"] * n for x, n in zip(row["layers"], weights, strict=True)]
        planned["sparsity_before"] = sum(before) / sum(weights)
    return planned


def _with_all(parts: dict[str, Any]) -> dict[str, Any]:
    return {**parts, "all": sum(parts.values())}


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


def _seconds(
    prepared: PreparedPruning, texts: dict[str, Tensor], row: dict[str, Any]
) -> dict[str, float]:
    """Seconds of each part of the whole run, from one block."""
    windows = _trial_windows(prepared)
    blocks, taken = len(prepared.model), row["seconds"]
    pruned = len(layers_by_block(prepared))
    seconds = {"load": taken["load"] * blocks, "write": taken["write"] * blocks}
    total = 0 if prepared.tokens is None else len(prepared.tokens)
    # a pass through a block: propagating is one, measuring errors adds two products to one
    unit = 0.0
    if windows:
        measured = min(prepared.config.measure, windows)
        unit = taken["propagate"] / (windows + 3 * measured)
        passes = total * blocks + 3 * min(prepared.config.measure, total) * pruned
        seconds["propagate"] = unit * passes
        seconds["calibrate"] = taken.get("calibrate", 0.0) * pruned * total / windows
        if prepared.method.profiled_by:
            seconds["profile"] = seconds["calibrate"] + seconds["load"]
    steps = 1.0
    if prepared.method.objective.scope == "block" and windows:
        config = prepared.walk_config.reconstruction
        trained_on = total - prepared.method.objective.judged_on(total)
        steps = -(-trained_on // config.batch_size) * config.epochs / _STEPS
        seconds["start"] = taken.get("start", 0.0) * pruned
    seconds["prune"] = taken.get("prune", 0.0) * steps * pruned
    if texts:
        tokens = sum(t.numel() for t in texts.values())
        length = prepared.tokens.shape[1] if prepared.tokens is not None else 1
        # dense and sparse; the head is a few percent of a model's products
        seconds["evaluate"] = 2 * (unit * tokens / length + taken["load"]) * blocks
    return seconds


def _trial_windows(prepared: PreparedPruning) -> int:
    if prepared.tokens is None:
        return 0
    config = prepared.walk_config
    optimised = prepared.method.objective.scope == "block"
    wanted = config.reconstruction.batch_size if optimised else config.micro_batch
    return min(wanted, len(prepared.tokens))


def _trial(prepared: PreparedPruning, windows: int) -> dict[str, Any]:
    """The first pruned block's row of the record, with one batch of windows."""
    short = dataclasses.replace(prepared.walk_config.reconstruction, epochs=_STEPS, warmup_epochs=0)
    measure = min(prepared.config.measure, windows)
    config = dataclasses.replace(prepared.walk_config, reconstruction=short, measure=measure)
    tokens = prepared.tokens[:windows] if prepared.tokens is not None and windows else None
    with _beside(prepared.out) as folder:
        walk = Blockwise(
            prepared.model,
            prepared.method,
            config,
            tokens,
            folder,
            include=prepared.config.include,
            exclude=prepared.config.exclude,
            work=prepared.work,
        )
        return walk.first_block()


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A temporary folder on the disk of ``out``."""
    with tempfile.TemporaryDirectory(prefix=".steppe-plan-", dir=existing(out)) as folder:
        yield Path(folder)


def lines(planned: dict[str, Any], out: Path) -> list[str]:
    """A plan for people."""
    free = planned["available_bytes"]
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
    said += [f"copied as it is, dense: {x}" for x in planned["not_in_the_model"]]
    said += shape_lines(planned["shape"]) if "shape" in planned else []
    said.append(packed_line(planned["packed"]))
    for key, which, word in (
        ("memory_bytes", "host", "memory"),
        ("device_bytes", "device", "device memory"),
        ("disk_bytes", "disk", f"disk for {out}"),
    ):
        if planned[key]:
            said.append(f"{word}: {_gib(planned[key]['all'])} of {_gib(free[which])} available")
            said += [f"  {n}: {_gib(b)}" for n, b in planned[key].items() if n != "all"]
    if "seconds" in planned:
        said.append(f"time: {_clock(planned['seconds']['all'])}")
        said += [f"  {n}: {_clock(s)}" for n, s in planned["seconds"].items() if n != "all"]
    return said


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _clock(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
