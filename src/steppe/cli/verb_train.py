"""``steppe train``: a recipe or flags, or a language model, to a run folder."""

from __future__ import annotations

import functools
import inspect
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from steppe import recipes
from steppe.cli.main import emit
from steppe.cli.training import TRAININGS, Flag, no_flag, with_method
from steppe.core.errors import OtherTask, SteppeError
from steppe.core.hub_names import nearest
from steppe.experiment.read import is_recipe, read_plain
from steppe.experiment.tasks import TASKS, task_of
from steppe.experiment.tasks.image import ImageTask
from steppe.experiment.varied import change_by


def add(app: typer.Typer) -> None:
    """Register the command; its flags are those of all tasks."""

    @functools.wraps(command)
    def with_flags(**given: Any) -> None:
        command(**given)

    hints = get_type_hints(command, include_extras=True)
    own = inspect.signature(command).parameters
    keyword = inspect.Parameter.KEYWORD_ONLY
    first = [own[n].replace(annotation=hints[n], kind=keyword) for n in own if n != "flags"]
    whole = [*first[:2], *_flags(), *first[2:]]
    with_flags.__signature__ = inspect.Signature(whole)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {p.name: p.annotation for p in whole}
    del with_flags.__wrapped__  # or its signature would be looked at
    app.command("train", short_help="Train a sparse classifier, detector or language model.")(
        with_flags
    )


def _flags() -> list[inspect.Parameter]:
    """A parameter for each flag of any task, with what it means for which."""
    kinds: dict[str, Any] = {}
    said: dict[str, dict[str, list[str]]] = {}
    for task in TRAININGS:
        for name, flag in TRAININGS[task].flags.items():
            kinds.setdefault(name, flag.kind)
            said.setdefault(name, {}).setdefault(flag.help, []).append(task)
    parameters = []
    for name, kind in kinds.items():
        shared = [
            text if len(tasks) == len(TRAININGS) else f"{', '.join(tasks)}: {text}"
            for text, tasks in said[name].items()
        ]
        names = (f"--{_typed(name)}",) if kind is bool else ()
        option: Any = Annotated[kind | None, typer.Option(*names, help="; ".join(shared))]
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, keyword, default=None, annotation=option))
    return parameters


def _typed(flag: str) -> str:
    return flag.replace("_", "-")


def command(
    recipe: Annotated[
        str | None,
        typer.Argument(help="a YAML file or a name of steppe recipes; or a language model"),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="without a recipe: image, or detection [image]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="the run's folder")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="any key of a recipe, e.g. method.alpha=1e-3"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
    **flags: Any,
) -> None:
    """Train a sparse network; started again, it goes on where it was. Flags win over the recipe."""
    named, base = _begun(recipe, task)
    training = TRAININGS[named]
    given = {name: value for name, value in flags.items() if value not in (None, [])}
    for name in given:
        if name not in training.flags:
            raise no_flag(named, name, given[name], chosen=bool(recipe or task))
    training.put(base, given)
    base["method"] = with_method(base["method"], given)
    for name, value in given.items():
        _put(base, training.flags[name], value)
    for one in change or []:
        change_by(base, one)
    try:
        result = training.run(base, given, out, quiet=quiet)
    except OtherTask as error:
        if recipe is None:
            raise
        raise _with_recipe(error) from None
    emit(result, json)


def _with_recipe(error: OtherTask) -> SteppeError:
    """The same where a recipe says the task, beside which --task is refused."""
    there = [name for name in recipes.names() if name.startswith(f"{error.task}/")]
    such = f", such as {there[0]}" if there else ""
    way_out = f"a recipe of task {error.task}{such}"
    return SteppeError(error.rule, got=error.got, way_out=way_out)


def _begun(argument: str | None, asked: str | None) -> tuple[str, dict[str, Any]]:
    """The task, and the recipe's plain data before any flag."""
    if argument is None:
        name = TASKS[asked or ImageTask.name].name
        return name, {"method": {}} | ({"task": name} if name != ImageTask.name else {})
    name, plain = _named(argument)
    if asked not in (None, name):
        raise SteppeError(
            "--task is for runs without a recipe, which says it itself",
            got=f"--task {asked}, and {argument} of task {name}",
            way_out="leave --task out",
        )
    return name, plain


def _named(argument: str) -> tuple[str, dict[str, Any]]:
    """The task and the plain data of a recipe, or of a language model."""
    if not is_recipe(argument):
        for name in TASKS:
            if TASKS[name].claims(argument):
                return name, TRAININGS[name].begin(argument)
        near = get_close_matches(argument, recipes.names(), cutoff=0.4)
        raise SteppeError(
            "train takes a recipe or a language model",
            got=f"{argument}, which is no file here, no folder, and no name of either",
            way_out=nearest(Path(argument), Path.exists)
            + (f"did you mean {' or '.join(near)}? " if near else "")
            + "steppe recipes lists those that come with steppe; a model is a folder with "
            "config.json, or owner/name on the hub",
        )
    data, path = read_plain(argument)
    task = task_of(data, path.parent)
    return task.name, task.load(data, str(path), path.parent).plain()


def _put(base: dict[str, Any], flag: Flag, value: Any) -> None:
    """A flag's value at its place; the method's are there already."""
    *path, last = flag.place.split(".")
    if path[:1] == ["method"] or not last:
        return
    node = base
    for key in path:
        node = node.setdefault(key, {})
    node[last] = value
