"""What ``steppe sweep`` and ``steppe tune`` share: their options, and how they end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from steppe.cli.main import emit, say
from steppe.core.errors import SteppeError
from steppe.core.text import counted
from steppe.experiment.read import read_plain
from steppe.experiment.tasks import task_of
from steppe.experiment.varied import change_by
from steppe.sweeps.backends import Resources
from steppe.sweeps.grid import SEED, Variation, shown
from steppe.sweeps.picture import column_of
from steppe.sweeps.results import FILE, Run, Setting
from steppe.sweeps.sweep import PICTURE, Sweep
from steppe.sweeps.table import table

RecipeFile = Annotated[str, typer.Argument(help="a YAML file or a name of steppe recipes")]
Set = Annotated[list[str] | None, typer.Option("--set", help="any key of the recipe, for all runs")]
Seeds = Annotated[str | None, typer.Option(help="run each setting with these: 0,1,2")]
On = Annotated[str, typer.Option(help="who runs it: here (one after another), ray")]
Workers = Annotated[int | None, typer.Option(help="ray: runs at once [one per GPU or machine]")]
Cpus = Annotated[int | None, typer.Option(help="ray: cores of a run [its share of a machine]")]
Gpus = Annotated[float | None, typer.Option(help="ray: GPUs of a run [1 where there are any]")]
Address = Annotated[
    str | None, typer.Option(help="ray: of a cluster [RAY_ADDRESS, or a ray of its own]")
]


def whole_recipe(recipe: str, changes: Sequence[str] | None) -> dict[str, Any]:
    """A recipe as plain data, every default written out, with what ``--set`` says.

    Raises:
        SteppeError: there is no such recipe, or no such key.
    """
    data, path = read_plain(recipe)
    task = task_of(data, path.parent)
    plain: dict[str, Any] = task.load(data, str(path), path.parent).plain()
    for change in changes or ():
        change_by(plain, change)
    return plain


def seeds_of(text: str | None) -> list[Variation]:
    """The variation of the seed that ``--seeds`` says; none where it says nothing."""
    return [] if text is None else [Variation.of(f"{SEED}={text}", "--seeds")]


def run(sweep: Sweep, on: str, resources: Resources, quiet: bool) -> None:
    """Run a sweep, with a line for each run that ends.

    Raises:
        SteppeError: see `Sweep.run`.
    """
    total, column = len(sweep.runs), column_of(sweep.quality)

    def begun(done: int) -> None:
        if done:
            say(f"{done} of {total} {'is' if done == 1 else 'are'} done already", quiet)

    def ended(run: Run, left: int) -> None:
        figure = "" if run.figure is None else f" {column.small} {column.scale * run.figure:.6g}"
        what = f"failed: {run.reason}" if run.state == "failed" else f"{run.state},{figure}"
        say(f"{total - left} of {total}: {run.name} {what}", quiet and run.state != "failed")

    sweep.run(on, resources, quiet=quiet or on != "here", begun=begun, ended=ended)


def end(sweep: Sweep, again: Mapping[str, Any], json: bool, quiet: bool) -> int:
    """Table, where everything lies, how many failed; the exit code.

    Args:
        sweep: that was run.
        again: more for ``--json``.
        json: whether one object is printed.
        quiet: say only what failed.
    """
    if not quiet:
        Console(stderr=True).print(table(sweep.settings, sweep.quality))
    say(f"all runs: {sweep.out / FILE}; picture: {sweep.out / PICTURE}", quiet)
    best = sweep.best
    emit(
        {
            "out": str(sweep.out),
            "quality": f"{sweep.quality.name} on {sweep.quality.of}",
            "runs": [vars(run) for run in sweep.runs],
            "best": None if best is None else best.values,
        }
        | dict(again),
        json,
    )
    if sweep.failed:
        some = counted(len(sweep.failed), "run")
        say(f"{some} of {len(sweep.runs)} failed; the same command tries them again")
    return 1 if sweep.failed else 0


def command_for(recipe: str, changes: Sequence[str] | None, best: Setting, out: Path) -> str:
    """The line that trains the best setting.

    Args:
        recipe: as the user gave it.
        changes: of ``--set``.
        best: the setting.
        out: the run's folder.
    """
    own = [f"{place}={written(value)}" for place, value in best.values.items()]
    sets = [part for change in [*(changes or ()), *own] for part in ("--set", change)]
    return shlex.join(["steppe", "train", recipe, *sets, "--out", str(out)])


def written(value: Any) -> str:
    """A value as ``--set`` reads it.

    Example:
        >>> written(1e-05), written("adam"), written({"name": "sam"}), written(None)
        ('1.0e-05', 'adam', '{name: sam}', 'null')
    """
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    return text.removesuffix("...").strip()


def described(values: Mapping[str, Any]) -> str:
    """A setting in words: ``train.lr 0.1, method.penalty 0.01``."""
    return ", ".join(f"{place} {shown(value)}" for place, value in values.items())


def nothing_works(sweep: Sweep) -> SteppeError:
    """The error where no setting is whole."""
    return SteppeError(
        "a best setting needs one of which every run is done",
        got=f"{len(sweep.failed)} of {len(sweep.runs)} runs failed",
        way_out=f"see why in {sweep.out / FILE}, then the same command",
    )
