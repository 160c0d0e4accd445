"""In which precision and memory format a recipe's run computes: chosen once, then kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from steppe.core.device import device_of
from steppe.engine.precision import AUTO, Choice, settle
from steppe.engine.run_folder import RunFolder
from steppe.engine.trainer import Batches
from steppe.engine.training_task import TrainingTask
from steppe.experiment.recipe import Recipe
from steppe.removal.latency_table import LatencyTable


def processes_of(recipe: Recipe) -> Any:
    """accelerate's state of the processes that run a recipe: their number, and which this is.

    Raises:
        SteppeError: the recipe's device is not there.
    """
    if recipe.device is not None:
        device_of(recipe.device)
    return PartialState(cpu=recipe.device == "cpu")


def settled(
    recipe: Recipe,
    model: nn.Module,
    batches: Callable[..., Batches],
    task: TrainingTask,
    folder: RunFolder | None,
    quiet: bool,
) -> Choice:
    """The precision and the memory format of a run.

    A run that goes on computes as it began: the choice is in its folder. Otherwise the first
    process measures, and all take what it chose.

    Args:
        recipe: of the run.
        model: the network; moved to the device of the run.
        batches: (part, batch size, options) -> its data.
        task: how it is run and what its loss is.
        folder: of the run, None where nothing is kept.
        quiet: do not say what was chosen.
    """
    state = processes_of(recipe)
    kept = folder.precision if folder is not None else None
    # a broadcast may end for the first process before the others have looked, and it writes then
    state.wait_for_everyone()
    if kept is not None:
        return Choice.read(kept)
    chosen: list[Choice | None] = [None]
    if state.is_main_process:
        model.to(state.device)
        chosen = [_measured(recipe, model, batches, task, state.device, state.num_processes)]
    if state.num_processes > 1:
        broadcast_object_list(chosen, from_process=0)
    choice = chosen[0]
    assert choice is not None
    if state.is_main_process and choice.milliseconds and not quiet:
        print(f"precision: {choice.why}", file=sys.stderr, flush=True)
    return choice


def layout_of_run(recipe: Recipe, record: Mapping[str, Any]) -> torch.memory_format:
    """The memory format in which a finished run computed.

    Args:
        recipe: of the run; where it says auto the record has what was chosen.
        record: of the run, or of what was made of it.

    Example:
        >>> recipe = Recipe(method="dense", train={"channels_last": "auto"})
        >>> layout_of_run(recipe, {"precision": {"channels_last": True}})
        torch.channels_last
    """
    chosen = record.get("precision") or {}
    last = chosen.get("channels_last", recipe.train.channels_last is True)
    return torch.channels_last if last else torch.contiguous_format


def _measured(
    recipe: Recipe,
    model: nn.Module,
    batches: Callable[..., Batches],
    task: TrainingTask,
    device: torch.device,
    processes: int,
) -> Choice:
    spec, layout = recipe.train, recipe.train.channels_last
    if layout == AUTO and recipe.channels.table is not None:
        # a latency table holds for one layout
        layout = LatencyTable.read(recipe.channels.table).conditions.get("layout") != "contiguous"
    own = {"seed": recipe.seed, "world": processes, "device": device, "workers": 0}
    loader = batches("train", spec.batch_size, **own)
    steps = len(loader) * spec.epochs
    batch = next(loader.epoch(0), None)
    if batch is None:
        return Choice("no", False, "not measured: there is no batch", {})

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return task.loss(outputs.float(), targets)

    return settle(model, batch, task.forward, steps, spec.mixed_precision, layout, loss)
