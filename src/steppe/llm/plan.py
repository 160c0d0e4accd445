"""What a job will take, from the model's shapes and one block that is pruned on trial."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from steppe.engine.blockwise.allocation import counts_of, sizes_of
from steppe.engine.blockwise.compatibility import check
from steppe.engine.blockwise.walk import Blockwise
from steppe.llm.memory import available, estimate, existing, layers_by_block
from steppe.llm.memory import check as check_fits

if TYPE_CHECKING:
    from steppe.llm.prune import Job

_STEPS = 3  # of optimisation on trial: targets and the last projection count little then


def plan(job: Job, dry_run: bool = True) -> dict[str, Any]:
    """What `prune` would need and make.

    The first block is loaded, pruned with one batch of windows (three optimisation steps for
    SAFE and ADMM, all layers once for layer solvers) and written into a temporary folder beside
    ``--out``, which is removed. Times are those of this trial, for as many blocks and windows as
    there are.

    Args:
        job: what is asked for.
        dry_run: measure times; without it there are none.

    Returns:
        ``memory_bytes``, ``device_bytes`` and ``disk_bytes`` (parts and ``all``), ``available``,
        ``seconds`` (parts and ``all``), ``layers``, ``blocks``, ``zeros`` and ``zeros_by_kind``.

    Raises:
        SteppeError: it cannot fit; names what, how much and the way out.
    """
    layers = [layer for held in layers_by_block(job).values() for layer in held]
    check(job.method, layers, job.tokens)
    texts = {name: job._text(name) for name in job.evaluate}
    needed = estimate(job, texts)
    check_fits(job, needed)
    found: dict[str, Any] = {
        "method": job.method.name,
        "memory_bytes": _with_all(needed["host"]),
        "device_bytes": _with_all(needed["device"]) if needed["device"] else {},
        "disk_bytes": _with_all(needed["disk"]),
        "available_bytes": available(job.out, job.device),
        "blocks": len(job.model),
        "layers": len(layers),
        **_zeros(job),
    }
    if dry_run:
        found["seconds"] = _with_all(_seconds(job, texts))
    return found


def _with_all(parts: dict[str, Any]) -> dict[str, Any]:
    return {**parts, "all": sum(parts.values())}


def _zeros(job: Job) -> dict[str, Any]:
    """Weights that will be exactly zero, in all and for each kind of layer."""
    layers = [layer for held in layers_by_block(job).values() for layer in held]
    counts = counts_of(job.method, layers, dict.fromkeys((x.name for x in layers), 0.0))
    sizes, kinds = sizes_of(job.method, layers), dict[str, int]()
    for layer in layers:
        kind = layer.name.removeprefix(f"{layer.block}.").removesuffix(".weight")
        zeros = counts[layer.name] * (layer.numel // sizes[layer.name])
        kinds[kind] = kinds.get(kind, 0) + zeros
    found: dict[str, Any] = {"zeros": sum(kinds.values()), "weights": sum(x.numel for x in layers)}
    # a budget that looks at the model first moves zeros between layers
    found["zeros_by_kind"] = {} if job.method.profiled_by else kinds
    return found


def _seconds(job: Job, texts: dict[str, Tensor]) -> dict[str, float]:
    """Seconds of each part of the whole run, from one block."""
    windows = _trial_windows(job)
    row = _trial(job, windows)
    blocks, taken = len(job.model), row["seconds"]
    pruned = len(layers_by_block(job))
    found = {"load": taken["load"] * blocks, "write": taken["write"] * blocks}
    total = 0 if job.tokens is None else len(job.tokens)
    # a pass through a block: propagating is one, measuring errors adds two products to one
    unit = 0.0
    if windows:
        measured = min(job.config.measure, windows)
        unit = taken["propagate"] / (windows + 3 * measured)
        passes = total * blocks + 3 * min(job.config.measure, total) * pruned
        found["propagate"] = unit * passes
        found["calibrate"] = taken.get("calibrate", 0.0) * pruned * total / windows
        if job.method.profiled_by:
            found["profile"] = found["calibrate"] + found["load"]
    steps = 1.0
    if job.method.objective.scope == "block" and windows:
        steps = (
            -(-total // job.config.reconstruction.batch_size)
            * job.config.reconstruction.epochs
            / _STEPS
        )
    found["prune"] = taken.get("prune", 0.0) * steps * pruned
    if texts:
        tokens = sum(t.numel() for t in texts.values())
        length = job.tokens.shape[1] if job.tokens is not None else 1
        # dense and sparse; the head is a few percent of a model's products
        found["evaluate"] = 2 * (unit * tokens / length + taken["load"]) * blocks
    return found


def _trial_windows(job: Job) -> int:
    if job.tokens is None:
        return 0
    block = job.method.objective.scope == "block"
    wanted = job.config.reconstruction.batch_size if block else job.config.micro_batch
    return min(wanted, len(job.tokens))


def _trial(job: Job, windows: int) -> dict[str, Any]:
    """The first pruned block's row of the record, with one batch of windows."""
    short = dataclasses.replace(job.config.reconstruction, epochs=_STEPS, warmup_epochs=0)
    measure = min(job.config.measure, windows)
    config = dataclasses.replace(job.config, reconstruction=short, measure=measure)
    tokens = job.tokens[:windows] if job.tokens is not None and windows else None
    with _beside(job.out) as folder:
        walk = Blockwise(
            job.model,
            job.method,
            config,
            tokens,
            folder,
            include=job.include,
            exclude=job.exclude,
        )
        return walk.first_block()


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A temporary folder on the disk of ``out``."""
    with tempfile.TemporaryDirectory(prefix=".steppe-plan-", dir=existing(out)) as folder:
        yield Path(folder)


def lines(found: dict[str, Any], out: Path) -> list[str]:
    """A plan for people."""
    free = found["available_bytes"]
    said = [
        f"{found['method']}: {found['zeros']:,} of {found['weights']:,} weights will be zero, "
        f"in {found['layers']} layers of {found['blocks']} blocks"
    ]
    said += [f"  {kind}: {zeros:,}" for kind, zeros in found["zeros_by_kind"].items()]
    for key, which, word in (
        ("memory_bytes", "host", "memory"),
        ("device_bytes", "device", "device memory"),
        ("disk_bytes", "disk", f"disk for {out}"),
    ):
        if found[key]:
            said.append(f"{word}: {_gib(found[key]['all'])} of {_gib(free[which])} available")
            said += [f"  {n}: {_gib(b)}" for n, b in found[key].items() if n != "all"]
    if "seconds" in found:
        said.append(f"time: {_clock(found['seconds']['all'])}")
        said += [f"  {n}: {_clock(s)}" for n, s in found["seconds"].items() if n != "all"]
    return said


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _clock(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
