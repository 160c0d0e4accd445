"""``steppe evaluate``: a run or a model, measured."""

from __future__ import annotations

import functools
import inspect
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer

from steppe.cli.main import emit, say
from steppe.cli.progress_line import ProgressLine
from steppe.core.courtesy import courtesy
from steppe.engine.progress import watched
from steppe.evaluation import EVALUATIONS, keep, make, meanings, read_record

_OWN = ("run", "device")  # every measurement has them


def add(app: typer.Typer) -> None:
    """Register the command; its flags are the fields of all measurements."""

    @functools.wraps(command)
    def with_flags(**given: Any) -> None:
        command(**given)

    hints = get_type_hints(command, include_extras=True)
    hints["on"] = Annotated[
        str, typer.Option(help=f"what to measure, comma-separated: {', '.join(EVALUATIONS)}")
    ]
    own = inspect.signature(command).parameters
    first, *rest = [own[name].replace(annotation=hints[name]) for name in own if name != "flags"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    whole = [p.replace(kind=keyword) for p in (first, rest[0], *_flags(), *rest[1:])]
    with_flags.__signature__ = inspect.Signature(whole)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {p.name: p.annotation for p in whole}
    del with_flags.__wrapped__  # or its signature would be looked at
    app.command("evaluate", short_help="Measure a run or a language model.")(with_flags)


def _flags() -> list[inspect.Parameter]:
    """A parameter for each field of any measurement, with what it means for whom."""
    kinds: dict[str, Any] = {}
    users: dict[str, dict[str, list[str]]] = {}
    for name in EVALUATIONS:
        hints, texts = get_type_hints(EVALUATIONS[name]), meanings(EVALUATIONS[name])
        for field in fields(EVALUATIONS[name]):
            if field.name not in _OWN:
                kinds.setdefault(field.name, hints[field.name])
                usual = "" if field.default in (None, False, "") else f" [{field.default}]"
                same = users.setdefault(field.name, {})
                same.setdefault(texts.get(field.name, "") + usual, []).append(name)
    parameters = []
    for flag, kind in kinds.items():
        said = "; ".join(f"{', '.join(names)}: {text}" for text, names in users[flag].items())
        # without a name of its own, typer would offer --no-flag, which says nothing here
        names = (f"--{flag.replace('_', '-')}",) if kind is bool else ()
        option: Any = Annotated[kind | None, typer.Option(*names, help=said)]
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(flag, keyword, default=None, annotation=option))
    return parameters


def command(
    run: Annotated[str, typer.Argument(help="a run's or language model's folder, or a hub id")],
    on: str = "clean",
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, ...; language models: or auto")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="nothing on stderr")] = False,
    **flags: Any,
) -> None:
    """Measure a run or a language model; the result is kept in its evaluations.json."""
    given = {key: value for key, value in {**flags, "device": device}.items() if value is not None}
    names = [name.strip() for name in on.split(",")]
    chosen = {n: make(n, run, given, [o for o in names if o != n]) for n in names}
    for evaluation in chosen.values():
        evaluation.check()  # of all, before the first takes its time
    record = read_record(run)
    results: dict[str, dict[str, Any]] = {}
    for name, evaluation in chosen.items():
        with ProgressLine(quiet) as line, watched(line):
            results[name] = result = evaluation.measure()
        lost = keep(name, evaluation, result)  # before anything is made of it
        with courtesy(f"the line on {name}"):
            say(evaluation.line(result, record), quiet)
        if lost is not None:
            say(f"note: {lost}")  # also when quiet: it is no progress
    # one measurement lies flat in the object, several under their names
    flat = next(iter(results.values())) if len(results) == 1 else results
    emit({**flat, "on": on, "run": run}, json)
