"""What a pruning will need of memory and disk, from shapes; refused when it cannot fit."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path

import psutil
import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import BlockBudget, ExpertMerger, LevelBudget, ShapeSearch, StreamSolver
from steppe.llm.prepare import PreparedPruning
from steppe.llm.state_bytes import bytes_of_a_weight

_FLOAT = 4  # blocks compute in float32
_BUFFERS = 64 << 20  # of the products' library and the threads
_CONTEXT = 1 << 30  # what CUDA keeps in host memory
_MIXTURES = "hidden states of mixtures"


def estimate(
    prepared: PreparedPruning,
    texts: Mapping[str, Tensor] | None = None,
    *,
    whole: bool = False,
) -> dict[str, dict[str, int]]:
    """Bytes that a pruning will need, each part of them by itself; nothing is loaded.

    Memory grows with the largest block, the square of its largest layer's columns and the tokens
    of a micro-batch, not with the number of blocks; disk with the model and the calibration
    tokens. Pages of mapped files are not counted: the system takes them back when it needs to.

    Args:
        prepared: what to prune and how.
        texts: the windows on which perplexity is measured.
        whole: the whole model is to be in memory, also where that is not decided yet.

    Returns:
        ``host``, ``device`` (empty on the CPU) and ``disk``: part -> bytes, in addition to what
        the process holds already. Parts of memory that are not there at the same time are left
        out, so the sum is the peak.
    """
    texts = texts or {}
    judging = isinstance(prepared.method.budget, BlockBudget)  # the head stays in between
    computing = {"embeddings and head": _rest(prepared, head=judging), **_at_a_block(prepared)}
    if whole or not prepared.model.chained:
        del computing["embeddings and head"], computing["block"]
        models = 1 + _two_models(prepared)
        size = _FLOAT * sum(p.numel() for p in _parameters(prepared))
        computing["the whole model"] = models * size
    elif texts:  # the head is loaded when no block is
        measured = {
            "embeddings and head": _rest(prepared, True),
            "logits": _logits(prepared, texts),
        }
        if sum(measured.values()) > sum(computing.values()):
            computing = measured
    if isinstance(prepared.method.budget, LevelBudget) and prepared.model.chained:
        searching = _searching(prepared, prepared.method.budget)
        computing = max(computing, searching, key=lambda parts: sum(parts.values()))
    if prepared.device == "cpu":
        host, device = {**computing, "buffers": _BUFFERS}, {}
    else:
        host = {"a block and the embeddings": _rest(prepared, True) + _FLOAT * _block(prepared)}
        host |= {"the device's own": _CONTEXT}
        device = {**computing, "buffers": _BUFFERS}
    return {"host": host, "device": device, "disk": _disk(prepared, texts)}


def _parameters(prepared: PreparedPruning) -> list[Tensor]:
    return list(prepared.model.model.parameters())


def layers_by_block(prepared: PreparedPruning) -> dict[str, list[Layer]]:
    """Block -> the layers in it that are pruned."""
    by_block: dict[str, list[Layer]] = {}
    every = prepared.model.layers(prepared.config.include, prepared.config.exclude)
    for layer in prepared.method.structure.among(every):
        by_block.setdefault(layer.block, []).append(layer)
    return by_block


def _block(prepared: PreparedPruning) -> int:
    """Weights of the largest block."""
    return max(sum(int(p.numel()) for p in block.parameters()) for block in prepared.model.blocks)


def _rest(prepared: PreparedPruning, head: bool) -> int:
    """Embeddings, last norm and head; the head only if it is wanted, or the embedding."""
    model = prepared.model
    inside = {id(p) for p in model.blocks.parameters()}
    output = model.model.get_output_embeddings()
    apart = {id(p) for p in output.parameters()} if output is not None and not head else set()
    named = model.model.named_parameters(remove_duplicate=False)
    outside = {n: p for n, p in named if id(p) not in inside}
    ends = model.stored_names(n for n, p in outside.items() if id(p) in apart)
    kept = model.stored_names(n for n, p in outside.items() if id(p) not in apart)
    wanted = kept if not head else kept | ends
    return _FLOAT * sum(int(outside[n].numel()) for n in wanted if n in outside)


def _at_a_block(prepared: PreparedPruning) -> dict[str, int]:
    """What a block needs while it is pruned, its weights included."""
    block = _block(prepared)
    layers = max(
        layers_by_block(prepared).values(), key=lambda inside: sum(x.numel for x in inside)
    )
    weights = sum(x.numel for x in layers)
    needed = {"block": _FLOAT * block}
    work = {"products of a micro-batch": _products(prepared, layers)}
    removes = prepared.method.structure.removes
    if not (prepared.masks or removes == "depth and width"):  # no zeros are on the way
        if _two_models(prepared):
            needed["the dense block"] = _FLOAT * block
        fits = prepared.method.solver
        taken = _solver(prepared, layers) if isinstance(fits, StreamSolver) and fits.looks else 0
        return needed | (work if sum(work.values()) > taken else {"solver": taken})
    needed |= {"masks": weights, "zeros that were there": block}
    if _measured(prepared):
        needed["dense weights, to measure errors"] = _FLOAT * weights
    if _two_models(prepared):
        needed["the dense block"] = _FLOAT * block
    if "gram" in _needs(prepared):
        needed["input grams"] = _FLOAT * sum(_grams(layers))
    if prepared.method.objective.scope == "block":
        work = _optimising(prepared, block, layers)
    # a solver and the forward passes come one after the other
    solver = _solver(prepared, layers)
    return needed | (work if sum(work.values()) > solver else {"solver": solver})


def _searching(prepared: PreparedPruning, budget: LevelBudget) -> dict[str, int]:
    """A block, and the hidden states of all mixtures before and after it."""
    hidden = _FLOAT * prepared.model.hidden_size
    judged = budget.judged_share * (0 if prepared.tokens is None else prepared.tokens.numel())
    return {
        "embeddings and head": _rest(prepared, head=True),
        "block": _FLOAT * _block(prepared),
        _MIXTURES: hidden * (2 * budget.tokens_at_once + int(judged)),
    }


def _two_models(prepared: PreparedPruning) -> bool:
    """Whether text goes through the dense model beside the one that is pruned."""
    return prepared.dense is not None or prepared.method.structure.removes == "hidden"


def _measured(prepared: PreparedPruning) -> bool:
    return prepared.tokens is not None and prepared.config.measure > 0


def _needs(prepared: PreparedPruning) -> set[str]:
    return {*prepared.method.calibration_needs, *prepared.method.objective.start_needs}


def _grams(layers: list[Layer]) -> list[int]:
    """Columns^2 of each input: layers of one module with as many columns share it by pairs."""
    sharing: dict[tuple[str, int], int] = {}
    for layer in layers:
        for part in layer.split():
            # q, k and v see one input and the output projection another, gate and up the same
            key = part.name.removesuffix(".weight").rpartition(".")[0], part.columns
            sharing[key] = sharing.get(key, 0) + 1
    return [columns**2 * (1 if n <= 2 else 2) for (_, columns), n in sharing.items()]


def _products(prepared: PreparedPruning, layers: list[Layer]) -> int:
    """A block's hidden states for the micro-batch, and the errors' products in float64."""
    if prepared.tokens is None:
        return 0
    windows = min(prepared.config.micro_batch, len(prepared.tokens))
    tokens, hidden = windows * prepared.tokens.shape[1], prepared.model.hidden_size
    rows = max(p.rows for layer in layers for p in layer.split())
    forward = _FLOAT * tokens * (6 * hidden + 3 * rows)
    measured = min(prepared.config.measure, windows) * prepared.tokens.shape[1]
    return forward + measured * rows * (2 * _FLOAT + 2 * 8)


def _solver(prepared: PreparedPruning, layers: list[Layer]) -> int:
    """Copies of the largest layer, and of its columns^2 for solvers that see them."""
    parts = [p for layer in layers for p in layer.split()]
    solver = prepared.method.objective.starts_from or prepared.method.solver
    if solver is None:  # the block is optimised, its layers are only copied
        return max(_FLOAT * 4 * p.numel for p in parts)
    return max(_FLOAT * solver.memory(p.rows, p.columns) for p in parts)


def _optimising(prepared: PreparedPruning, block: int, layers: list[Layer]) -> dict[str, int]:
    """Gradients, Adam's moments, the perturbation, the coupling's state, saved activations."""
    weights = sum(x.numel for x in layers)
    method, fit = prepared.method, prepared.walk_config.reconstruction
    of_optimizer, of_coupling = bytes_of_a_weight(method, fit.optimizer, {})
    copies = 1 + 2 * method.perturb.active
    needed = {"gradients and optimiser": round((_FLOAT * copies + of_optimizer) * block)}
    # a start: what was dense, and what the training began with
    state = bool(method.score.needs) + 2 * (method.objective.starts_from is not None)
    needed["sparsity's own state"] = round((_FLOAT * state + of_coupling) * weights)
    windows = min(prepared.config.micro_batch, fit.batch_size)
    tokens = windows * prepared.window
    widths = sum(p.rows + p.columns for layer in layers for p in layer.split())
    size = 2 if fit.precision == "bfloat16" else _FLOAT
    needed["saved activations"] = size * tokens * (widths + 8 * prepared.model.hidden_size)
    if fit.precision == "bfloat16":
        needed["bfloat16 weights"] = 2 * block
    return needed


def _logits(prepared: PreparedPruning, texts: Mapping[str, Tensor]) -> int:
    rows = max(min(prepared.config.micro_batch, len(t)) * t.shape[1] for t in texts.values())
    return (
        _FLOAT * rows * prepared.model.hidden_size + 3 * _FLOAT * 2048 * prepared.model.vocabulary
    )


def _disk(prepared: PreparedPruning, texts: Mapping[str, Tensor]) -> dict[str, int]:
    pruned = [layer for inside in layers_by_block(prepared).values() for layer in inside]
    needed = {"shards": prepared.model.checkpoint.bytes}
    searches = isinstance(prepared.method.structure, ShapeSearch)  # prunes on the way
    if prepared.masks or searches:
        needed["masks"] = sum(-(-layer.numel // 8) for layer in pruned)
    if prepared.method.structure.removes == "units":  # with zeros first, then cut
        needed["what is cut out of them"] = needed["shards"] - _gone(prepared, pruned)
    hidden, budget = _FLOAT * prepared.model.hidden_size, prepared.method.budget
    structure, merges = prepared.method.structure, isinstance(prepared.method.solver, ExpertMerger)
    # a search makes a shorter one, and one with zeros
    if copies := (structure.removes == "hidden") + merges + 2 * searches:
        needed["the model as it is on the way"] = copies * prepared.model.checkpoint.bytes
    if prepared.tokens is not None and prepared.walks:
        row = torch.Size(prepared.model.state_shape(prepared.tokens.shape[1])).numel()
        states = _FLOAT * row * len(prepared.tokens)
        models = 1 + _two_models(prepared)
        needed["activations"] = 2 * models * states
        if isinstance(budget, BlockBudget):
            windows = budget.windows(prepared.tokens)
            models = budget.models(len(prepared.model))
            needed["activations"] = _FLOAT * row * len(windows) * models
        if isinstance(structure, ShapeSearch):
            tried = min(structure.tokens // prepared.tokens.shape[1] + 1, len(prepared.tokens))
            needed["blocks on trial"] = _FLOAT * row * tried * len(prepared.model)
        if prepared.method.objective.scope == "block":
            needed["targets"] = hidden * prepared.tokens.numel()
            if prepared.method.objective.stages != "block":
                needed["inputs of a part of a block"] = models * states
    if isinstance(budget, LevelBudget):
        sizes = {x.name: x.numel for x in pruned}
        offers = budget.offers({x.name: x for x in pruned}, sizes, sum(sizes.values()) // 2)
        stored = {n: prepared.model.stored_dtype(n).itemsize for n in sizes}
        needed["layers at all levels"] = sum(sizes[n] * stored[n] * len(offers[n]) for n in sizes)
    if texts and prepared.model.chained:
        needed["evaluation"] = hidden * max(t.numel() for t in texts.values())
    return needed


def _gone(prepared: PreparedPruning, layers: list[Layer]) -> int:
    """Bytes that a model without some units lacks at least: what reads them."""
    structure, lost = prepared.method.structure, 0
    for layer in layers:
        rows, columns = structure.units(layer)
        count = structure.count(layer, prepared.method.sparsity) or 0
        width = prepared.model.stored_dtype(layer.name).itemsize
        lost += layer.numel * count // (rows * columns) * width
    return lost


# what there is


def available(out: Path, device: str) -> dict[str, int]:
    """Bytes that are free now: ``host``, ``device`` (on the GPU) and ``disk``.

    The least of what the system has, the container grants and the process may take.
    """
    free = {"host": min(_host()), "disk": shutil.disk_usage(existing(out)).free}
    if device.startswith("cuda"):
        free["device"] = torch.cuda.mem_get_info(torch.device(device))[0]
    return free


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return path


def _host() -> list[int]:
    limits = [int(psutil.virtual_memory().available)]
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        limits.append(limit - used + int(statistics.get("inactive_file", 0)))
    with contextlib.suppress(ImportError, OSError, ValueError, AttributeError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
        if limit != resource.RLIM_INFINITY:
            limits.append(limit - int(psutil.Process().memory_info().data))
    return limits


_WORDS = {"host": "memory", "device": "the device's memory", "disk": "the disk"}


def decide(
    prepared: PreparedPruning, texts: Mapping[str, Tensor] | None = None
) -> dict[str, dict[str, int]]:
    """Find out how blocks can be called; refuse what cannot fit before its weights are loaded.

    Args:
        prepared: what to prune and how.
        texts: the windows on which perplexity is measured.

    Returns:
        What is needed, as `estimate` says it.

    Raises:
        SteppeError: it does not fit, or the walk would not be what the model computes.
    """

    def loading(reason: str) -> None:
        check(prepared, estimate(prepared, texts, whole=True) | {"disk": {}}, reason)

    if prepared.config.streamed != "never" and prepared.model.chained:
        check(prepared, estimate(prepared, texts) | {"disk": {}})
    prepared.decide(loading)
    needed = estimate(prepared, texts)
    check(prepared, {"host": {}, "device": {}, "disk": needed["disk"]})
    return needed


def check(
    prepared: PreparedPruning, needed: Mapping[str, Mapping[str, int]], reason: str = ""
) -> None:
    """Refuse what cannot fit.

    What a run that was interrupted has written already need not be free on the disk.

    Args:
        prepared: what to prune and how.
        needed: as `estimate` says it.
        reason: why the whole model is to be in memory, where it is.

    Raises:
        SteppeError: names the resource, what is needed, what there is and which knob to turn.
    """
    free = available(prepared.out, prepared.device)
    files = (p for p in prepared.out.rglob("*") if p.is_file() and not p.is_symlink())
    written = sum(p.stat().st_blocks * 512 for p in files)
    for which, there in free.items():
        need = sum(needed[which].values()) - (written if which == "disk" else 0)
        if need > there:
            largest = max(needed[which], key=lambda part: needed[which][part])
            raise SteppeError(
                f"a run must fit in {_WORDS[which]}",
                got=f"{_gib(need)} needed, {_gib(there)} available",
                consequence=f"most of it is for: {largest} ({_gib(needed[which][largest])})",
                way_out=_way_out(prepared, which, largest, reason),
            )


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def _way_out(prepared: PreparedPruning, which: str, largest: str, reason: str) -> str:
    if which == "disk":
        fewer = largest in ("activations", "targets", "evaluation")
        return ("fewer --samples, a shorter --window, or " if fewer else "") + (
            "--out on another disk"
        )
    if largest == "the whole model":
        if prepared.config.streamed == "never":
            return "--streamed auto, with one block in memory at a time where that can be"
        return f"a machine with more: it cannot be streamed ({reason})"
    if largest == _MIXTURES:
        return "a budget that tries nothing out (--budget owl), or fewer tokens in its comparisons"
    ways = []
    solving = largest in ("solver", "input grams")
    if prepared.config.micro_batch > 1 and prepared.tokens is not None and not solving:
        ways.append(f"--micro-batch {max(prepared.config.micro_batch // 4, 1)}")
    if "gram" in _needs(prepared):
        ways.append("a method without Hessians (--method wanda, no --swaps)")
    elif prepared.method.objective.scope == "block":
        ways.append("a method that optimises nothing (--method wanda)")
    elif _measured(prepared):
        ways.append("--measure 0")
    if which == "device":
        ways.append("--device cpu")
    return ", ".join(ways) or "a machine with more"
