"""``steppe tune``: short runs over a grid, and the recipe with the best of it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from steppe import recipes
from steppe.cli import swept
from steppe.cli.main import say
from steppe.core.errors import SteppeError
from steppe.core.text import counted
from steppe.experiment.tasks import task_of
from steppe.sweeps.backends import Resources
from steppe.sweeps.sweep import Sweep
from steppe.sweeps.tuning import TUNED, USUAL, at_an_edge, grid, number_at, write_tuned


def add(app: typer.Typer) -> None:
    app.command("tune", short_help="Choose options by short runs.")(command)


def command(
    recipe: swept.RecipeFile,
    out: Annotated[Path, typer.Option(help="a folder for the runs; goes on with those there")],
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            help="a key, varied around its value, or key=A,B,C [method.penalty and train.lr]",
        ),
    ] = None,
    fraction: Annotated[
        float, typer.Option(help="of the tokens or epochs, that a run trains for")
    ] = 0.125,
    factor: Annotated[float, typer.Option(help="between neighbours of a grid")] = 3.0,
    seeds: swept.Seeds = None,
    change: swept.Set = None,
    on: swept.On = "here",
    workers: swept.Workers = None,
    cpus: swept.Cpus = None,
    gpus: swept.Gpus = None,
    address: swept.Address = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> int:
    """Choose options by short runs, on held-out data; started again, it goes on where it was."""
    if not 0 < fraction <= 1:
        raise SteppeError("--fraction lies in (0, 1]", got=fraction, way_out="--fraction 0.125")
    whole = swept.whole_recipe(recipe, change)
    task = task_of(whole)
    varied = grid(whole, over or (), factor)
    for place in USUAL if not over else ():
        if not number_at(whole, place):
            say(f"{place} is no number here and stays as it is", quiet)
    short = task.shortened(task.on_held_out(whole), fraction)
    sweep = Sweep(short, [*varied, *swept.seeds_of(seeds)], out, "--over")
    said = counted(len(sweep.runs), "run")
    say(f"{said} of {fraction:g} of the recipe: {len(sweep.runs) * fraction:.3g} times it", quiet)
    given = Resources(workers=workers, cpus=cpus, gpus=gpus, address=address)
    swept.run(sweep, on, given, quiet)
    best, again = sweep.best, {}
    if best is not None:
        named = recipe.removesuffix(".yaml") in recipes.names() and not Path(recipe).is_file()
        parent = recipe if named else str(Path(recipe).resolve())
        write_tuned(out / TUNED, parent, whole, best)
        again["tuned"] = str(out / TUNED)
        end = out.with_name(f"{out.name}-best")
        again["command"] = shlex.join(["steppe", "train", again["tuned"], "--out", str(end)])
    code = swept.end(sweep, again, json, quiet)
    if best is None:
        raise swept.nothing_works(sweep)
    say(f"the best: {swept.described(best.values)}", quiet)
    for place in at_an_edge(best, varied):
        say(f"note: {place} lies at the edge of what was tried: --over with more values", quiet)
    say(again["command"], quiet)
    return code
