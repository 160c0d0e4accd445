"""``steppe sweep``: a recipe with all values of some of its keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steppe.cli import swept
from steppe.cli.main import say
from steppe.core.text import counted
from steppe.experiment.tasks import task_of
from steppe.sweeps.backends import Resources
from steppe.sweeps.grid import Variation
from steppe.sweeps.picture import column_of
from steppe.sweeps.sweep import Sweep


def add(app: typer.Typer) -> None:
    app.command("sweep", short_help="Run a recipe with all values of some keys.")(command)


def command(
    recipe: swept.RecipeFile,
    out: Annotated[Path, typer.Option(help="a folder for the runs; goes on with those there")],
    vary: Annotated[
        list[str] | None,
        typer.Option("--vary", help="a key and its values: train.lr=1e-4,3e-4; all are combined"),
    ] = None,
    seeds: swept.Seeds = None,
    change: swept.Set = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="measure on data held out of the training data")
    ] = False,
    on: swept.On = "here",
    workers: swept.Workers = None,
    cpus: swept.Cpus = None,
    gpus: swept.Gpus = None,
    address: swept.Address = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> int:
    """Run a recipe with every combination of values; started again, it goes on where it was."""
    plain = swept.whole_recipe(recipe, change)
    if held_out:
        plain = task_of(plain).on_held_out(plain)
    varied = [Variation.of(text) for text in vary or ()] + swept.seeds_of(seeds)
    sweep = Sweep(plain, varied, out)
    say(f"{counted(len(sweep.runs), 'run')} in {out}", quiet)
    given = Resources(workers=workers, cpus=cpus, gpus=gpus, address=address)
    swept.run(sweep, on, given, quiet)
    best, again = sweep.best, {}
    if best is not None and best.values:
        where = out.with_name(f"{out.name}-best")
        again["command"] = swept.command_for(recipe, change, best, where)
    code = swept.end(sweep, again, json, quiet)
    if again:
        name = column_of(sweep.quality).small.removesuffix(", %")
        say(f"the best by {name} on {sweep.quality.of}:", quiet)
        say(again["command"], quiet)
        if not sweep.quality.unseen:
            say("chosen by what it is measured on, it looks better than it is: --held-out", quiet)
    return code
