"""What a whole training will hold in memory, from shapes; refused when it cannot fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import UnitBudget
from steppe.engine.adam8bit import installed
from steppe.llm.model import StreamedModel
from steppe.llm.state_bytes import bytes_of_a_weight
from steppe.method import Method

_FLOAT = 4
_BUFFERS = 64 << 20  # of the libraries, where they compute first


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What of a training decides its memory, beside model and method.

    Args:
        batch: windows in a pass of one process.
        window: tokens in each.
        optimizer: by name, see `steppe.engine.optim`.
        options: its further arguments.
        low: whether products are in 16 bits.
        checkpointing: whether blocks are computed twice.
        processes: that share what is split; 1 where nothing is.
        accumulate: passes in a step.
        teacher: whether another network answers beside it.
        taught_by: parameters of that network; None for as many as are trained.
        trained: parameters that are moved; None for all.
        keeps_best: whether the best state so far is kept beside the newest.
        held: bytes that the process holds already: Python, torch and what else was loaded.
    """

    batch: int
    window: int
    optimizer: str
    options: dict[str, Any]
    low: bool = False
    checkpointing: bool = False
    processes: int = 1
    accumulate: int = 1
    teacher: bool = False
    taught_by: int | None = None
    trained: int | None = None
    keeps_best: bool = False
    held: int = 0


def needed(source: StreamedModel, method: Method, setting: Setting) -> dict[str, int]:
    """Bytes that one process will hold at the peak of a step, part by part; nothing is loaded.

    What optimiser and coupling keep of a weight is counted on a small matrix. Activations are
    counted as inputs and outputs of the layers: an estimate.

    Args:
        source: the model, by its shapes.
        method: that trains it.
        setting: of the training.
    """
    layers = source.layers()
    weights, pruned = source.parameters(), sum(x.numel for x in layers)
    share, n = setting.processes, weights // setting.processes
    moved = n if setting.trained is None else setting.trained // share
    of_optimizer, of_coupling = bytes_of_a_weight(method, setting.optimizer, setting.options)
    parts = {
        "weights": _FLOAT * n,
        "gradients": _FLOAT * moved,
        "the optimizer's state": round(of_optimizer * moved),
        "the coupling's state": round(of_coupling * (pruned // share)),
    }
    if method.perturb.active:  # the weights at x, how far they move, the gradient there
        parts["the perturbation"] = (3 if method.perturb.gradients > 1 else 2) * _FLOAT * n
    if setting.teacher:
        taught_by = n if setting.taught_by is None else setting.taught_by // share
        parts["the teacher"] = _FLOAT * taught_by
    if setting.keeps_best:
        parts["the best state so far"] = _FLOAT * moved
    if share > 1:
        parts["a whole block and its gradients"] = 2 * _FLOAT * max(_sizes(layers).values())
    parts["saliencies"] = 3 * _FLOAT * _ranked_at_once(method, layers)
    parts["activations"] = _activations(layers, source.hidden_size, setting)
    logits = setting.batch * setting.window * source.vocabulary
    kept = 3 if method.perturb.through == "outputs" else 2  # with their gradient, at x too
    parts["logits"] = kept * (2 if setting.low else _FLOAT) * logits
    parts["buffers"] = _BUFFERS
    if setting.held:
        parts["Python and libraries"] = setting.held
    return parts


def _sizes(layers: list[Layer]) -> dict[str, int]:
    """Block -> weights of its layers."""
    sizes: dict[str, int] = {}
    for layer in layers:
        sizes[layer.block] = sizes.get(layer.block, 0) + layer.numel
    return sizes


def _ranked_at_once(method: Method, layers: list[Layer]) -> int:
    budget = method.budget
    one = isinstance(budget, UnitBudget) and budget.layerwise
    return max(x.numel for x in layers) if one else sum(x.numel for x in layers)


def _activations(layers: list[Layer], hidden: int, setting: Setting) -> int:
    """Inputs and outputs of the layers; with checkpointing of one block, and the blocks' inputs."""
    wide: dict[str, int] = {}
    for layer in layers:
        wide[layer.block] = wide.get(layer.block, 0) + layer.rows + layer.columns
    width = 2 if setting.low else _FLOAT
    each = {block: width * numbers for block, numbers in wide.items()}
    kept = sum(each.values())
    if setting.checkpointing:
        kept = max(each.values()) + _FLOAT * hidden * len(each)
    return setting.batch * setting.window * kept


def peak(parts: dict[str, int], setting: Setting) -> int:
    """Bytes at the peak of a step.

    Gradients come as activations and logits go, so that the larger of the two counts; where passes
    are accumulated, gradients of earlier ones are there all the time.

    Args:
        parts: as `needed` says them.
        setting: of the training.
    """
    passes = parts["activations"] + parts["logits"]
    never_together = min(parts["gradients"], passes) if setting.accumulate == 1 else 0
    return sum(parts.values()) - never_together


Planned = Callable[[Setting], dict[str, int]]


Ways = list[tuple[str, dict[str, Any]]]
"""Options of the command line, and what of a setting they are."""


def split_peaks(planned: Planned, setting: Setting) -> dict[int, int]:
    """Processes -> the peak of each, were the model split over them (FSDP2).

    Args:
        planned: what is `needed` under a setting.
        setting: of the training, with the batch of one process.
    """
    whole = setting.batch * setting.processes
    return {
        n: peak(planned(each), each)
        for n in (2, 4, 8)
        for each in [replace(setting, processes=n, batch=max(whole // n, 1))]
    }


def lines(parts: dict[str, int], there: int, setting: Setting, split: dict[int, int]) -> list[str]:
    """What is needed, for people.

    Args:
        parts: as `needed` says them.
        there: bytes that are free for this process.
        setting: of the training.
        split: as `split_peaks` says it.
    """
    said = [f"memory of a process: {_gib(peak(parts, setting))} of {_gib(there)} available"]
    said += [f"  {name}: {_gib(size)}" for name, size in parts.items()]
    if peak(parts, setting) < sum(parts.values()):
        said.append("  (gradients come as activations and logits go: the larger of them counts)")
    each = ", ".join(f"{n}: {_gib(size)}" for n, size in split.items())
    return [*said, f"each of several processes with --shard: {each}"]


def check(
    planned: Planned, there: int, setting: Setting, world: int, windows: int | None = None
) -> None:
    """Refuse what cannot fit.

    Args:
        planned: what is `needed` under a setting.
        there: bytes that are free for this process.
        setting: of the training.
        world: number of processes.
        windows: that a batch can have at most, of all processes; no way out has more.

    Raises:
        SteppeError: names what is needed, what there is, and what to turn.
    """
    parts = planned(setting)
    need = peak(parts, setting)
    if need <= there:
        return
    largest = max(parts, key=lambda part: parts[part])
    fitting = [
        way
        for way, other in _others(setting, world)
        if peak(planned(other), other) <= there
        and other.batch * max(world, other.processes) <= (windows or math.inf)
    ]
    raise SteppeError(
        "a run must fit in memory",
        got=f"{_gib(need)} needed in a process, {_gib(there)} available",
        consequence=f"most of it is for: {largest} ({_gib(parts[largest])})",
        way_out=", or ".join([*fitting[:2], "a machine with more"]),
    )


def _others(setting: Setting, world: int) -> Iterator[tuple[str, Setting]]:
    """Settings that need less, in the words of the command line, the nearest first."""
    sizes = [b for b in range(setting.batch - 1, 0, -1) if setting.batch % b == 0]
    smaller = [(b, setting.accumulate * setting.batch // b) for b in sizes]
    fewer: Ways = [
        (f"--batch-size {b * world} --accumulate {times}", {"batch": b, "accumulate": times})
        for b, times in smaller
    ]
    twice: Ways = [("--checkpointing", {"checkpointing": True})] * (not setting.checkpointing)
    eight: Ways = [("--optimizer adam8bit", {"optimizer": "adam8bit"})]
    shared = setting.options.keys() <= {"betas", "eps", "weight_decay"}
    eight = eight if setting.optimizer == "adam" and shared and installed() else []
    both: Ways = [(f"{a} {b}", x | y) for a, x in [*twice, *eight] for b, y in fewer]
    every: Ways = [(f"{a} {b}", x | y) for a, x in twice for b, y in eight]
    every += [(f"{a} {b}", x | y) for a, x in every for b, y in fewer]
    for way, changes in [*fewer, *twice, *eight, *both, *every]:
        yield way, replace(setting, **changes)
    if setting.processes == 1:
        for n in (2, 4, 8, 16, 32):
            said = f"--shard, with {n} processes that have as much memory each"
            yield said, replace(setting, processes=n, batch=max(setting.batch * world // n, 1))


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
