"""A block optimised to do what the dense one did, under a method's constraint."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import LayerSolver
from steppe.engine import ranks
from steppe.engine.blockwise.allocation import for_block
from steppe.engine.blockwise.calibrate import CalibrationCollector
from steppe.engine.blockwise.solve import solve_block
from steppe.engine.blockwise.states import Activations
from steppe.engine.optim import lr_factor, optimizer
from steppe.engine.step.options import StepOptions
from steppe.engine.step.sparsify import sparsify
from steppe.method import Method

Forward = Callable[[Tensor, nn.Module], Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a block is optimised.

    The SAFE authors' settings for language models are 30 epochs, 2 of them warming up, and a
    learning rate of 2e-4; ours take a third of the time for a lower perplexity (docs/results.md).

    Args:
        epochs: passes over the calibration windows.
        warmup_epochs: of them with a growing learning rate; it falls linearly to 0 afterwards.
        lr: peak learning rate.
        batch_size: windows per step, over all processes.
        optimizer: any of torch.optim.
        betas: of Adam.
        precision: float32, or bfloat16 for autocast around a float32 master copy.
    """

    epochs: int = 10
    warmup_epochs: float = 1
    lr: float = 1e-3
    batch_size: int = 8
    optimizer: str = "adam"
    betas: tuple[float, float] = (0.9, 0.95)
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not self.lr > 0:
            raise SteppeError(
                "a block is optimised for at least one epoch, with batches and a learning rate",
                got=f"epochs {self.epochs}, batch size {self.batch_size}, lr {self.lr}",
            )
        if not 0 <= self.warmup_epochs < self.epochs:
            raise SteppeError(
                "the warm-up must be shorter than the optimisation of a block",
                got=f"{self.warmup_epochs:g} of {self.epochs} epochs",
                way_out="fewer warm-up epochs (--warmup-epochs 0), or more epochs",
            )
        if self.precision not in ("float32", "bfloat16"):
            raise SteppeError("precision is float32 or bfloat16", got=repr(self.precision))


class Walk(Protocol):
    """What of the walk over the blocks a fit needs."""

    blocks: Any
    config: Any
    out: Path

    def note(self, text: str) -> None: ...
    def _states(self, index: int) -> Activations: ...
    def _slices(self) -> list[slice]: ...


@dataclasses.dataclass
class Stage:
    """A module that is optimised by itself: its name in the block, how it runs, its inputs."""

    name: str
    module: nn.Module
    forward: Forward
    inputs: Activations


def fit(
    walk: Walk,
    index: int,
    block: nn.Module,
    method: Method,
    layers: list[Layer],
    pieces: Mapping[str, tuple[Layer, Tensor]],
    counts: Mapping[str, int],
    collector: CalibrationCollector | None,
) -> dict[str, Tensor]:
    """Optimise a block in place so that it is sparse and flat and does what it did.

    Returns:
        Layer name -> mask.
    """
    known = _known(method, layers, collector)
    start = getattr(method.objective, "start", None)
    masks: dict[str, Tensor] = {}
    dense = {n: t.clone() for n, t in block.state_dict().items()} if start else None
    if start:
        solver = LayerSolver.make(start)
        solve_block(method, layers, pieces, counts, collector, walk.note, solver)
    with walk.blocks.fitting(walk.config.fit.precision == "bfloat16"):
        _fit_stages(walk, index, block, method, layers, counts, known, dense, masks)
    return masks


def _fit_stages(
    walk: Walk,
    index: int,
    block: nn.Module,
    method: Method,
    layers: list[Layer],
    counts: Mapping[str, int],
    known: Mapping[str, Mapping[str, Tensor]],
    dense: dict[str, Tensor] | None,
    masks: dict[str, Tensor],
) -> None:
    for stage in _stages(walk, index, block, method, layers):
        inside = [x for x in layers if _relative(x).startswith(stage.name)]
        targets = _targets(walk, stage, block, dense)
        found = _fit_stage(walk, stage, targets, method, inside, counts, known)
        masks |= {x.name: found[_relative(x).removeprefix(stage.name)] for x in inside}
        targets.delete()
        if stage.name:
            stage.inputs.delete()


def _relative(layer: Layer) -> str:
    return layer.name.removeprefix(f"{layer.block}.")


def _known(
    method: Method, layers: list[Layer], collector: CalibrationCollector | None
) -> dict[str, dict[str, Tensor]]:
    """Calibration statistics as the score sees them: they broadcast over each weight."""
    found: dict[str, dict[str, Tensor]] = {need: {} for need in method.score.needs}
    for need in found:
        assert collector is not None
        for layer in layers:
            parts = [collector.of(p.name)[need].expand(p.rows, p.columns) for p in layer.split()]
            whole = torch.cat(parts) if layer.stacked else parts[0]
            found[need][layer.name] = layer.unflat(whole)
    return found


def _stages(
    walk: Walk, index: int, block: nn.Module, method: Method, layers: list[Layer]
) -> Iterator[Stage]:
    """The block itself, or its children one after the other, each with its own inputs."""
    if not getattr(method.objective, "apart", False):
        yield Stage("", block, lambda x, m: walk.blocks.call(index, x, m), walk._states(index))
        return
    for name in _called(walk, index, block):
        if any(_relative(x).startswith(f"{name}.") for x in layers):
            yield _child_stage(walk, index, block.get_submodule(name), name)


def _called(walk: Walk, index: int, block: nn.Module) -> list[str]:
    """The block's children in the order in which they run."""
    order: list[str] = []
    hooks = [
        child.register_forward_pre_hook(lambda m, a, name=name: order.append(name))
        for name, child in block.named_children()
    ]
    with torch.no_grad():
        walk.blocks.call(index, walk._states(index).tensor[:1].to(walk.blocks.device))
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(order))


class _Enough(Exception):
    """The child's inputs are known: the rest of the block need not run."""


def _child_stage(walk: Walk, index: int, child: nn.Module, name: str) -> Stage:
    seen: dict[tuple[int, ...], tuple[tuple[Any, ...], dict[str, Any]]] = {}
    taken: list[Tensor] = []

    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        kwargs = dict(kwargs)
        hidden = args[0] if args else kwargs.pop("hidden_states")
        seen[tuple(hidden.shape[:2])] = (tuple(args[1:]), kwargs)
        taken.append(hidden)
        raise _Enough

    def run(hidden: Tensor) -> Tensor:
        handle = child.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            with torch.no_grad(), contextlib.suppress(_Enough):
                walk.blocks.call(index, hidden)
        finally:
            handle.remove()
        return taken.pop()

    states = walk._states(index)
    width = run(states.tensor[:1].to(walk.blocks.device)).shape[-1]
    inputs = Activations(walk.out / "checkpoints" / "stage.bin", (*states.shape[:2], width))
    for part in walk._slices():
        inputs.tensor[part] = run(states.tensor[part].to(walk.blocks.device)).float().cpu()
    ranks.barrier()

    def forward(x: Tensor, module: nn.Module) -> Tensor:
        if tuple(x.shape[:2]) not in seen:
            run(states.tensor[: x.shape[0]].to(walk.blocks.device))
        args, kwargs = seen[tuple(x.shape[:2])]
        returned = module(x, *args, **kwargs)
        found: Tensor = returned[0] if isinstance(returned, tuple) else returned
        return found

    return Stage(f"{name}.", child, forward, inputs)


@torch.no_grad()
def _targets(
    walk: Walk, stage: Stage, block: nn.Module, dense: dict[str, Tensor] | None
) -> Activations:
    """What the dense module makes of the pruned model's hidden states, in full precision."""
    mine = stage.module.state_dict()
    started = {n: t.clone() for n, t in mine.items()} if dense is not None else {}
    if dense is not None:
        stage.module.load_state_dict({n: dense[stage.name + n] for n in mine})
    first = stage.inputs.tensor[:1].to(walk.blocks.device)
    width = stage.forward(first, stage.module).shape[-1]
    path = walk.out / "checkpoints" / "targets.bin"
    targets = Activations(path, (*stage.inputs.shape[:2], width))
    for part in walk._slices():
        hidden = stage.inputs.tensor[part].to(walk.blocks.device)
        targets.tensor[part] = stage.forward(hidden, stage.module).float().cpu()
    ranks.barrier()
    if started:
        stage.module.load_state_dict(started)
    return targets


def _fit_stage(
    walk: Walk,
    stage: Stage,
    targets: Activations,
    method: Method,
    layers: list[Layer],
    counts: Mapping[str, int],
    known: Mapping[str, Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    config: FitConfig = walk.config.fit
    short = {x.name: _relative(x).removeprefix(stage.name) for x in layers}
    inner = [dataclasses.replace(x, name=short[x.name]) for x in layers]
    own = for_block(_base(method), {short[n]: counts[n] for n in short}, inner)
    stage.module.requires_grad_(True)
    params = [p for p in stage.module.parameters() if p.is_floating_point()]
    options = {"betas": config.betas} if config.optimizer.startswith("adam") else {}
    optim = optimizer(config.optimizer, params, config.lr, **options)
    steps = -(-len(targets) // config.batch_size)
    own_known = {need: {short[n]: v[n] for n in short} for need, v in known.items()}
    sparsifier = sparsify(
        _parallel(stage.module),
        optim,
        own,
        steps * config.epochs,
        include=[x.name for x in inner],
        options=StepOptions(statistics=own_known),
    )
    factor = lr_factor("linear", config.warmup_epochs / config.epochs)
    order = torch.Generator().manual_seed(walk.config.seed)
    done = 0
    for _ in range(config.epochs):
        for batch in torch.randperm(len(targets), generator=order).split(config.batch_size):
            for group in optim.param_groups:
                group["lr"] = config.lr * factor((done + 1) / (steps * config.epochs + 1))
            sparsifier.step(*_closures(walk, stage, targets, batch, sparsifier.model))
            done += 1
    finished = sparsifier.finish()
    stage.module.requires_grad_(False)
    optim.zero_grad(set_to_none=True)
    return finished.masks


def _base(method: Method) -> Method:
    """The method before its budget was cut to a whole block."""
    base = getattr(method.budget, "base", None)
    return method if base is None else method.replace(budget=base)


def _parallel(module: nn.Module) -> nn.Module:
    if ranks.world() == 1:
        return module
    from torch.nn.parallel import DistributedDataParallel

    # of a mixture's experts some may get no token in a step
    return DistributedDataParallel(module, find_unused_parameters=True)


def _closures(
    walk: Walk, stage: Stage, targets: Activations, batch: Tensor, model: nn.Module
) -> list[Callable[[], Tensor]]:
    """The step's losses, one per micro-batch; each process takes its part of the batch.

    The processes' gradients are averaged, so a loss is weighted by the process's share of the
    batch; one that got no window takes part in the exchange with a weight of 0.
    """
    device, precision = walk.blocks.device, walk.config.fit.precision
    mine = batch[ranks.rank() :: ranks.world()]
    weight = ranks.world() / len(batch) if len(mine) else 0.0
    mine = mine if len(mine) else batch[:1]

    def loss_of(part: Tensor) -> Callable[[], Tensor]:
        x = stage.inputs.tensor[part].to(device)
        y = targets.tensor[part].to(device)

        def closure() -> Tensor:
            low = precision == "bfloat16"
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                found = stage.forward(x, model)
            return F.mse_loss(found.float(), y) * (len(part) * parts * weight)

        return closure

    split = mine.split(walk.config.micro_batch)
    parts = len(split)
    return [loss_of(part) for part in split]
