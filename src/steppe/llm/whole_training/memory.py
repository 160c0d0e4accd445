"""What a whole training will hold in memory, from shapes; refused when it cannot fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import UnitBudget
from steppe.engine.optim import optimizers
from steppe.engine.step.sparsify import sparsify
from steppe.llm.model import StreamedModel
from steppe.method import Method

_FLOAT = 4
_SIDE = 256  # of the square matrix on which bytes of a weight are counted


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What of a training decides its memory, beside model and method.

    Args:
        batch: windows in a pass of one process.
        window: tokens in each.
        optimizer: of ``torch.optim``, by name.
        options: its further arguments.
        low: whether products are in 16 bits.
        checkpointing: whether blocks are computed twice.
        processes: that share what is split; 1 where nothing is.
        teacher: whether another network answers beside it.
    """

    batch: int
    window: int
    optimizer: str
    options: dict[str, Any]
    low: bool = False
    checkpointing: bool = False
    processes: int = 1
    teacher: bool = False


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
    of_optimizer, of_coupling = bytes_of_a_weight(method, setting.optimizer, setting.options)
    parts = {
        "weights": _FLOAT * n,
        "gradients": _FLOAT * n,
        "the optimizer's state": round(of_optimizer * n),
        "the coupling's state": round(of_coupling * (pruned // share)),
    }
    if method.perturb.active:  # the weights at x, how far they move, the gradient there
        parts["the perturbation"] = (3 if method.perturb.gradients > 1 else 2) * _FLOAT * n
    if setting.teacher:
        parts["the teacher"] = _FLOAT * n
    if share > 1:
        parts["a whole block and its gradients"] = 2 * _FLOAT * max(_sizes(layers).values())
    parts["saliencies"] = 3 * _FLOAT * _ranked_at_once(method, layers)
    parts["activations"] = _activations(layers, source.hidden_size, setting)
    logits = setting.batch * setting.window * source.vocabulary
    parts["logits"] = 2 * (2 if setting.low else _FLOAT) * logits
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


def bytes_of_a_weight(
    method: Method, optimizer: str, options: dict[str, Any]
) -> tuple[float, float]:
    """What the optimiser and the coupling keep of each weight, counted on a small matrix.

    Args:
        method: whose coupling is looked at.
        optimizer: of ``torch.optim``, by name.
        options: its further arguments.

    Example:
        >>> import steppe
        >>> bytes_of_a_weight(steppe.methods.gmp(sparsity=0.5), "adam", {})
        (8.0, 1.0)
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(_SIDE, _SIDE, bias=False)
    made, _ = optimizers(optimizer, model.parameters(), 1e-3, **options)
    plain = method.replace(objective="task")
    sparsifier = sparsify(model, made, plain, 100, steps_per_epoch=10)
    inputs, right = torch.eye(_SIDE), torch.zeros(())
    watches = sparsifier.coupling.watches == "accuracy"

    def closure() -> Tensor | tuple[Tensor, Tensor]:
        loss = model(inputs).square().mean()
        return (loss, right) if watches else loss

    with torch.random.fork_rng(devices=[]):
        sparsifier.step(closure)
    state = sparsifier.state_dict()
    return _bytes(state["optimizer"]) / _SIDE**2, _bytes(state["coupling"]) / _SIDE**2


def _bytes(tree: Any) -> int:
    """Of the tensors in a state that have an entry for each weight; single numbers are none."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size() if tree.numel() > 1 else 0
    if isinstance(tree, dict):
        return sum(map(_bytes, tree.values()))
    return sum(map(_bytes, tree)) if isinstance(tree, list | tuple) else 0


def lines(parts: dict[str, int], there: int) -> list[str]:
    """What is needed, for people."""
    said = [f"memory of a process: {_gib(sum(parts.values()))} of {_gib(there)} available"]
    return said + [f"  {name}: {_gib(size)}" for name, size in parts.items()]


def check(parts: dict[str, int], there: int, setting: Setting, world: int) -> None:
    """Refuse what cannot fit.

    Args:
        parts: as `needed` says them.
        there: bytes that are free for this process.
        setting: of the training.
        world: number of processes.

    Raises:
        SteppeError: names what is needed, what there is, and what to turn.
    """
    need = sum(parts.values())
    if need <= there:
        return
    largest = max(parts, key=lambda part: parts[part])
    raise SteppeError(
        "a run must fit in memory",
        got=f"{_gib(need)} needed in a process, {_gib(there)} available",
        consequence=f"most of it is for: {largest} ({_gib(parts[largest])})",
        way_out=", ".join(_ways(parts, there, setting, world)),
    )


def _ways(parts: dict[str, int], there: int, setting: Setting, world: int) -> list[str]:
    """What to turn: smaller passes where that is enough, else the weights must be divided."""
    passes = parts["activations"] + parts["logits"]
    rest = sum(parts.values()) - passes
    fits = int((there - rest) / passes * setting.batch) if passes else 0
    ways = []
    if fits >= 1:
        times = -(-setting.batch // fits)
        ways.append(f"--batch-size {max(setting.batch // times, 1) * world} --accumulate {times}")
    if not setting.checkpointing and parts["activations"] > parts["logits"]:
        ways.append("--checkpointing")
    if fits < 1 and setting.processes == 1:
        ways.append("--shard, with several processes that have memory of their own")
    return [*ways, "a machine with more"]


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"
