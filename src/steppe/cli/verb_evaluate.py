"""``steppe evaluate``: a run or a model, measured."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from steppe.cli.evaluations import keep, make, read_record
from steppe.cli.main import emit, say


def add(app: typer.Typer) -> None:
    app.command("evaluate")(command)


def _option(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help)


def command(
    run: Annotated[str, typer.Argument(help="a run's or language model's folder, or a hub id")],
    on: Annotated[
        str, _option("what to measure, comma-separated: clean, perplexity, zero_shot")
    ] = "clean",
    part: Annotated[str | None, _option("clean: test, validation or train")] = None,
    reestimate_bn: Annotated[
        bool | None, typer.Option("--reestimate-bn", help="clean: batch-norm statistics anew")
    ] = None,
    text: Annotated[
        str | None, _option("perplexity: a file, a folder, wikitext2, c4 or owner/name")
    ] = None,
    window: Annotated[int | None, _option("perplexity: tokens the model sees at once")] = None,
    stride: Annotated[int | None, _option("perplexity: below the window, windows overlap")] = None,
    tasks: Annotated[str | None, _option("zero_shot: lm-eval's names, comma-separated")] = None,
    task_folder: Annotated[str | None, _option("zero_shot: lm-eval's YAML of more tasks")] = None,
    limit: Annotated[int | None, _option("zero_shot: examples of each task at most")] = None,
    dtype: Annotated[
        str | None, _option("language models: float32, float16 or bfloat16; else as stored")
    ] = None,
    batch: Annotated[int | None, _option("language models: windows in a forward pass")] = None,
    device: Annotated[str | None, _option("cpu, cuda, ...; language models: or auto")] = None,
    json: Annotated[bool, _option("one JSON object on stdout", "--json")] = False,
    quiet: Annotated[bool, _option("nothing on stderr", "--quiet")] = False,
) -> None:
    """Measure a run or a language model; the result is kept in its evaluations.json."""
    flags: dict[str, Any] = {
        "part": part,
        "reestimate_bn": reestimate_bn,
        "text": text,
        "window": window,
        "stride": stride,
        "tasks": tasks,
        "task_folder": task_folder,
        "limit": limit,
        "dtype": dtype,
        "batch": batch,
        "device": device,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    names = [name.strip() for name in on.split(",")]
    chosen = {n: make(n, run, given, [o for o in names if o != n]) for n in names}
    record = read_record(run)
    results: dict[str, dict[str, Any]] = {}
    for name, evaluation in chosen.items():
        results[name] = result = evaluation.measure()
        say(evaluation.line(result, record), quiet)
        lost = keep(name, evaluation, result)
        if lost is not None:
            say(f"note: {lost}", quiet)
    # one measurement lies flat in the object, several under their names
    flat = next(iter(results.values())) if len(results) == 1 else results
    emit({**flat, "on": on, "run": run}, json)
