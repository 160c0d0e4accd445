"""What a job will need of memory and disk, from the model's shapes; refused when it cannot fit."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import Coupling

if TYPE_CHECKING:
    from torch import Tensor

    from steppe.llm.prune import Job

_FLOAT = 4  # blocks compute in float32
_BUFFERS = 64 << 20  # of the products' library and the threads
_CONTEXT = 1 << 30  # what CUDA keeps in host memory


def estimate(job: Job, texts: Mapping[str, Tensor] | None = None) -> dict[str, dict[str, int]]:
    """Bytes that a job will need, each part of them by itself; nothing is loaded.

    Memory grows with the largest block, the square of its largest layer's columns and the tokens
    of a micro-batch, not with the number of blocks; disk with the model and the calibration
    tokens. Pages of mapped files are not counted: the system takes them back when it needs to.

    Args:
        job: what is asked for.
        texts: the windows on which perplexity is measured.

    Returns:
        ``host``, ``device`` (empty on the CPU) and ``disk``: part -> bytes, in addition to what
        the process holds already. Parts of memory that are not there at the same time are left
        out, so the sum is the peak.
    """
    texts = texts or {}
    computing = {"embeddings and head": _rest(job, head=False), **_at_a_block(job)}
    if texts:  # the head is loaded when no block is
        measured = {"embeddings and head": _rest(job, True), "logits": _logits(job, texts)}
        if sum(measured.values()) > sum(computing.values()):
            computing = measured
    if job.device == "cpu":
        host, device = {**computing, "buffers": _BUFFERS}, {}
    else:
        host = {"a block and the embeddings": _rest(job, True) + _FLOAT * _block(job)}
        host |= {"the device's own": _CONTEXT}
        device = {**computing, "buffers": _BUFFERS}
    return {"host": host, "device": device, "disk": _disk(job, texts)}


def layers_by_block(job: Job) -> dict[str, list[Layer]]:
    """Block -> the layers in it that are pruned."""
    found: dict[str, list[Layer]] = {}
    for layer in job.model.layers(job.include, job.exclude):
        found.setdefault(layer.block, []).append(layer)
    return found


def _block(job: Job) -> int:
    """Weights of the largest block."""
    return max(sum(int(p.numel()) for p in block.parameters()) for block in job.model.blocks)


def _rest(job: Job, head: bool) -> int:
    inside = {id(p) for p in job.model.blocks.parameters()}
    output = job.model.model.get_output_embeddings()
    tied = output is not None and output.weight is job.model.model.get_input_embeddings().weight
    apart = {id(p) for p in output.parameters()} if output is not None and not tied else set()
    left = {id(p): int(p.numel()) for p in job.model.model.parameters() if id(p) not in inside}
    held = [n for key, n in left.items() if head or key not in apart]
    return _FLOAT * sum(held)


def _at_a_block(job: Job) -> dict[str, int]:
    """What a block needs while it is pruned, its weights included."""
    block = _block(job)
    layers = max(layers_by_block(job).values(), key=lambda held: sum(x.numel for x in held))
    weights = sum(x.numel for x in layers)
    needed = {"block": _FLOAT * block, "masks": weights}
    if _measured(job):
        needed["dense weights, to measure errors"] = _FLOAT * weights
    if "gram" in _needs(job):
        needed["input grams"] = _FLOAT * sum(_grams(layers))
    work = {"products of a micro-batch": _products(job, layers)}
    if job.method.objective.scope == "block":
        work = _optimising(job, block, layers)
    # a solver and the forward passes come one after the other
    solver = _solver(job, layers)
    return needed | (work if sum(work.values()) > solver else {"solver": solver})


def _measured(job: Job) -> bool:
    return job.tokens is not None and job.config.measure > 0


def _needs(job: Job) -> set[str]:
    return {*job.method.calibration_needs, *job.method.objective.start_needs}


def _grams(layers: list[Layer]) -> list[int]:
    """Columns^2 of each input: layers of one module with as many columns share it by pairs."""
    held: dict[tuple[str, int], int] = {}
    for layer in layers:
        for part in layer.split():
            # q, k and v see one input and the output projection another, gate and up the same
            key = part.name.removesuffix(".weight").rpartition(".")[0], part.columns
            held[key] = held.get(key, 0) + 1
    return [columns**2 * (1 if n <= 2 else 2) for (_, columns), n in held.items()]


def _products(job: Job, layers: list[Layer]) -> int:
    """A block's hidden states for the micro-batch, and the errors' products in float64."""
    if job.tokens is None:
        return 0
    windows = min(job.config.micro_batch, len(job.tokens))
    tokens, hidden = windows * job.tokens.shape[1], job.model.hidden_size
    rows = max(p.rows for layer in layers for p in layer.split())
    forward = _FLOAT * tokens * (6 * hidden + 3 * rows)
    measured = min(job.config.measure, windows) * job.tokens.shape[1]
    return forward + measured * rows * (2 * _FLOAT + 2 * 8)


def _solver(job: Job, layers: list[Layer]) -> int:
    """Copies of the largest layer, and of its columns^2 for solvers that see them."""
    parts = [p for layer in layers for p in layer.split()]
    solver = job.method.objective.starts_from or job.method.solver
    if solver is None:  # the block is optimised, its layers are only copied
        return max(_FLOAT * 4 * p.numel for p in parts)
    return max(_FLOAT * solver.memory(p.rows, p.columns) for p in parts)


def _optimising(job: Job, block: int, layers: list[Layer]) -> dict[str, int]:
    """Gradients, Adam's moments, the perturbation, the coupling's state, saved activations."""
    weights, method, fit = sum(x.numel for x in layers), job.method, job.config.reconstruction
    copies = 3 + 2 * method.perturb.active
    needed = {"gradients and optimiser": _FLOAT * copies * block}
    state = 3 if isinstance(method.coupling, Coupling) and method.coupling.trains else 1
    state += bool(method.score.needs) + (method.objective.starts_from is not None)
    needed["sparsity's own state"] = _FLOAT * state * weights
    windows = min(job.config.micro_batch, fit.batch_size)
    tokens = windows * job.window
    widths = sum(p.rows + p.columns for layer in layers for p in layer.split())
    size = 2 if fit.precision == "bfloat16" else _FLOAT
    needed["saved activations"] = size * tokens * (widths + 8 * job.model.hidden_size)
    if fit.precision == "bfloat16":
        needed["bfloat16 weights"] = 2 * block
    return needed


def _logits(job: Job, texts: Mapping[str, Tensor]) -> int:
    rows = max(min(job.config.micro_batch, len(t)) * t.shape[1] for t in texts.values())
    return _FLOAT * rows * job.model.hidden_size + 3 * _FLOAT * 2048 * job.model.vocabulary


def _disk(job: Job, texts: Mapping[str, Tensor]) -> dict[str, int]:
    pruned = [layer for held in layers_by_block(job).values() for layer in held]
    found = {
        "shards": job.model.checkpoint.bytes,
        "masks": sum(-(-layer.numel // 8) for layer in pruned),
    }
    hidden = _FLOAT * job.model.hidden_size
    if job.tokens is not None and (job.needs_text or job.config.measure):
        found["activations"] = 2 * hidden * job.tokens.numel()
        if job.method.objective.scope == "block":
            apart = job.method.objective.stages == "children"
            found["targets"] = (1 + apart) * hidden * job.tokens.numel()
    if texts:
        found["evaluation"] = hidden * max(t.numel() for t in texts.values())
    return found


# what there is


def available(out: Path, device: str) -> dict[str, int]:
    """Bytes that are free now: ``host``, ``device`` (on the GPU) and ``disk``.

    The least of what the system has, the container grants and the process may take.
    """
    found = {"host": min(_host()), "disk": shutil.disk_usage(existing(out)).free}
    if device.startswith("cuda"):
        found["device"] = torch.cuda.mem_get_info(torch.device(device))[0]
    return found


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def _host() -> list[int]:
    found = [int(psutil.virtual_memory().available)]
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        held = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        found.append(limit - used + int(held.get("inactive_file", 0)))
    with contextlib.suppress(ImportError, OSError, ValueError, AttributeError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
        if limit != resource.RLIM_INFINITY:
            found.append(limit - int(psutil.Process().memory_info().data))
    return found


_WORDS = {"host": "memory", "device": "the device's memory", "disk": "the disk"}


def check(job: Job, needed: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse what cannot fit.

    What a run that was interrupted has written already need not be free on the disk.

    Raises:
        SteppeError: names the resource, what is needed, what there is and which knob to turn.
    """
    free = available(job.out, job.device)
    written = sum(p.stat().st_blocks * 512 for p in job.out.rglob("*") if p.is_file())
    for which, there in free.items():
        need = sum(needed[which].values()) - (written if which == "disk" else 0)
        if need > there:
            largest = max(needed[which], key=lambda part: needed[which][part])
            raise SteppeError(
                f"a run must fit in {_WORDS[which]}",
                got=f"{_gib(need)} needed, {_gib(there)} available",
                consequence=f"most of it is for: {largest} ({_gib(needed[which][largest])})",
                way_out=_way_out(job, which, largest),
            )


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _way_out(job: Job, which: str, largest: str) -> str:
    if which == "disk":
        fewer = largest in ("activations", "targets", "evaluation")
        return ("fewer --samples, a shorter --window, or " if fewer else "") + (
            "--out on another disk"
        )
    ways = []
    solving = largest in ("solver", "input grams")
    if job.config.micro_batch > 1 and job.tokens is not None and not solving:
        ways.append(f"--micro-batch {max(job.config.micro_batch // 4, 1)}")
    if "gram" in _needs(job):
        ways.append("a method without Hessians (--method wanda)")
    elif job.method.objective.scope == "block":
        ways.append("a method that optimises nothing (--method wanda)")
    elif _measured(job):
        ways.append("--measure 0")
    if which == "device":
        ways.append("--device cpu")
    return ", ".join(ways) or "a machine with more"
