"""``steppe bisect``: for methods whose sparsity is an outcome, the option that gives it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import typer

from steppe.cli.main import emit, say
from steppe.core.errors import SteppeError
from steppe.engine.bisection import bisect
from steppe.experiment.experiment import Experiment, load_data
from steppe.experiment.recipe import load_recipe
from steppe.experiment.varied import varied


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
    base = load_recipe(recipe)
    target = base.build_method().sparsity
    data = load_data(base, say=lambda note: say(f"note: {note}", quiet))
    rows: list[dict[str, Any]] = []

    def measure(value: float) -> float:
        where = out / f"{value:.6g}"
        record, _, _ = Experiment(varied(base, option, value), data, where, quiet).train()
        total = sum(layer["total"] for layer in record["layers"])
        own = float(record["zeros_before_projection"] / max(total, 1))
        accuracy = record["sparse"].get("accuracy")
        rows.append({"value": value, "sparsity": own, "accuracy": accuracy, "run": str(where)})
        shown = "" if accuracy is None else f", accuracy {accuracy:.2%}"
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


@functools.wraps(command)
def _former(**options: Any) -> None:
    say("steppe reach is now called steppe bisect; the old name goes in 0.2", options["quiet"])
    command(**options)
