"""``steppe bisect``: for methods whose sparsity is an outcome, the option that gives it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from steppe.cli.main import emit, say
from steppe.core.errors import SteppeError
from steppe.engine.bisection import bisect
from steppe.experiment.read import read_plain
from steppe.experiment.recipe import Recipe
from steppe.experiment.tasks import TASKS, task_of
from steppe.experiment.tasks.image import ImageTask
from steppe.experiment.varied import varied
from steppe.sweeps.picture import column_of


def add(app: typer.Typer) -> None:
    app.command("bisect", short_help="Find the option that gives a sparsity.")(command)
    app.command("reach", hidden=True)(_former)


def command(
    recipe: Annotated[Path, typer.Argument(help="a YAML recipe; its sparsity is what is wanted")],
    out: Annotated[Path, typer.Option(help="a folder for the runs; goes on with those there")],
    option: Annotated[
        str, typer.Option(help="what is varied: a number in the recipe that raises the sparsity")
    ] = "train.weight_decay",
    low: Annotated[float, typer.Option(help="its least value")] = 1e-5,
    high: Annotated[float, typer.Option(help="its greatest value")] = 1e-2,
    tries: Annotated[int, typer.Option(help="runs at most")] = 8,
    tolerance: Annotated[float, typer.Option(help="how near is near enough")] = 0.01,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="nothing on stderr")] = False,
) -> None:
    """Find the option with which a method gets as sparse by itself as it is asked to be."""
    base = _read(recipe)
    task, target = TASKS[base.task], base.build_method().sparsity
    assert issubclass(task, ImageTask)
    quality = task.quality(base)
    column = column_of(quality)
    rows: list[dict[str, Any]] = []
    read: list[tuple[Any, Any]] = []  # what data are, and they

    def measure(value: float) -> float:
        where, recipe = out / f"{value:.6g}", varied(base, option, value)
        task.check(recipe)
        if not read or read[0][0] != recipe.data:
            read[:] = [(recipe.data, task.data(recipe))]
        record = task.train_on(read[0][1], recipe, where, quiet)
        total = sum(layer["total"] for layer in record["layers"])
        own = float(record["zeros_before_projection"] / max(total, 1))
        figure = quality.read(record)
        rows.append({"value": value, "sparsity": own, quality.name: figure, "run": str(where)})
        shown = "" if figure is None else f", {column.small} {column.scale * figure:.4g}"
        say(f"{option} {value:.4g}: {own:.2%} zeros by itself{shown}", quiet)
        return own

    bisect(measure, target, low, high, tries=tries, tolerance=tolerance)
    nearest = min(rows, key=lambda row: abs(row["sparsity"] - target))
    words = f"{option} {nearest['value']:.6g} with {nearest['sparsity']:.2%}, in {nearest['run']}"
    reached = abs(nearest["sparsity"] - target) <= tolerance
    if reached:
        say(f"nearest to {target:.2%}: {words}", quiet)
    result = {"option": option, "target": target, "nearest": nearest, "runs": rows}
    emit(result | {"reached": reached}, json)
    if not reached:
        raise SteppeError(
            f"{target:.2%} must be reached within {tolerance:g}",
            got=f"at best {words}",
            way_out="more --tries (what was run is not run again), or a larger --tolerance",
        )


def _read(path: Path) -> Recipe:
    """The recipe of a classifier or a detector.

    Raises:
        SteppeError: there is none, it is bad, or of a language model.
    """
    data, file = read_plain(path)
    recipe = task_of(data, file.parent).load(data, str(file), file.parent)
    if not isinstance(recipe, Recipe):
        raise SteppeError(
            "steppe bisect runs recipes of images",
            got=f"{path}, of task {recipe.task}",
            way_out="steppe sweep --vary",
        )
    return recipe


@functools.wraps(command)
def _former(**options: Any) -> None:
    say("steppe reach is now called steppe bisect; the old name goes in 0.2", options["quiet"])
    command(**options)
