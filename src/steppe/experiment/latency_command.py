"""The ``steppe latency`` that measures a recipe's network, for messages; a table, looked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from steppe.core.errors import SteppeError
from steppe.experiment.recipe import Recipe
from steppe.removal.latency_command import LatencyCommand, no_table
from steppe.removal.latency_table import LatencyTable
from steppe.removal.plan import TEXT

USUAL = 8
"""What widths are multiples of where a latency is the target and nothing is said."""
DENSE = "DENSE_RUN"
"""Stands for a dense run of the recipe's network and data, which is measured as it is."""
_OF_DATA = ("name", "size", "classes", "num_classes", "channels", "mean")
_COLOURS = 3  # of the images with which a network is measured by its name


def command_of(
    recipe: Recipe, shape: tuple[int, ...] | None = None, classes: int | None = None
) -> LatencyCommand:
    """The command that measures a recipe's network, as far as the recipe knows it.

    By its name where that says all: a network with options, or for images that are neither square
    nor in colour, is measured in a dense run.

    Args:
        recipe: with channels.
        shape: channels, height and width of an image; None before data are read.
        classes: their number; None before data are read.

    Example:
        >>> given = {"method": "halp", "data": {"name": "x", "size": 224, "num_classes": 1000}}
        >>> command_of(Recipe(**given, model="resnet20", device="cpu")).to("t")
        'steppe latency resnet20 --input-size 224 --classes 1000 --batch 1 --round-to 8 --out t'
    """
    spec, data = recipe.channels, recipe.data
    there = "cuda" if torch.cuda.is_available() else "cpu"
    command = LatencyCommand(
        batch=spec.batch or 1,
        round_to=spec.round_to or USUAL,
        channels_last=recipe.train.channels_last is True,
        device=recipe.device or there,
    )
    if (run := _started_from(recipe)) is not None:
        return replace(command, network=run)
    if shape is None and data.size is not None:
        shape = (len(data.mean) if data.mean else _COLOURS, data.size, data.size)
    if recipe.model.options or shape is None or shape != (_COLOURS, shape[-1], shape[-1]):
        return replace(command, network=DENSE)
    known = classes or getattr(data, "num_classes", None) or len(getattr(data, "classes", ()) or ())
    return replace(command, network=recipe.model.name, size=shape[-1], classes=known or "CLASSES")


def _started_from(recipe: Recipe) -> str | None:
    """The run whose weights a recipe starts from, if its network is the recipe's."""
    from steppe.experiment.experiment import read_run

    if recipe.model.weights is None:
        return None
    try:
        there = read_run(Path(recipe.model.weights))
    except SteppeError:  # weights of another kind: nothing is known of their network
        return None
    same = (there.model.name, there.model.options) == (recipe.model.name, recipe.model.options)
    same &= not (Path(recipe.model.weights) / TEXT).exists()  # whole, no channels removed
    for key in _OF_DATA:
        same &= getattr(there.data, key, None) == getattr(recipe.data, key, None)
    return recipe.model.weights if same else None


def check_table(recipe: Recipe, out: Path | None) -> None:
    """Whether the table is there that a recipe's latency is read from, before data are read.

    Args:
        recipe: with a method that can be built.
        out: the run's folder; one that is finished needs no table.

    Raises:
        SteppeError: it is not, or it is no latency table.
    """
    finished = out is not None and (out / "record.json").exists()
    if recipe.channels.target != "latency" or finished:
        return
    method = recipe.build_method()
    if not method.structure.whole_outputs or method.sparsity == 0:
        return
    command = command_of(recipe)
    if recipe.channels.table is None:
        raise no_table(command)
    LatencyTable.read(recipe.channels.table, command)
