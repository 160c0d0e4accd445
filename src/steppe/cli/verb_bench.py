"""``steppe bench``: how fast, how large and how good pruned language models are here."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from steppe.cli.language_only import check_language
from steppe.cli.main import emit, say
from steppe.cli.progress_line import ProgressLine
from steppe.core.courtesy import courtesy
from steppe.core.errors import SteppeError
from steppe.engine.progress import watched
from steppe.evaluation import keep, make, read_record
from steppe.evaluation.speed import GenerationSpeed, measured_together
from steppe.llm.generation_speed import ENOUGH, verdict
from steppe.llm.tradeoff import AXES, TradeOff, dominated, trade_offs
from steppe.report.short_table import MARK

_BYTES = {
    "resident_bytes": "memory, loaded",
    "written_bytes": "memory, after writing",
    "peak_bytes": "memory, most in loading",
    "matrices_bytes": "linear layers alone",
}
MEMORY = (
    "Memory is what the process holds beyond what it held before loading, when torch, transformers "
    "and the model's code were there already. The last line of it is computed: what the formats "
    "store."
)
Measured = tuple[GenerationSpeed, dict[str, Any]]


def add(app: typer.Typer) -> None:
    app.command("bench", short_help="Time a pruned language model beside the dense one.")(command)


def command(
    runs: Annotated[list[str], typer.Argument(help="folders of pruned models, plain or compact")],
    dense: Annotated[
        str | None,
        typer.Option(
            help="the model beside; left out: the same, matrices dense; of several, or with "
            "--text, what their records name"
        ),
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="a text: perplexity too; several models need it")
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(help="tokens seen at once in the text; 2048, or what the model has"),
    ] = None,
    sparse: Annotated[
        str, typer.Option(help="bits, index, csr, or auto: what is fastest here for each matrix")
    ] = "auto",
    dtypes: Annotated[
        str, typer.Option(help="of both models; the fastest of each counts")
    ] = "float32,bfloat16",
    prompt: Annotated[int, typer.Option(help="tokens that are read first")] = 64,
    tokens: Annotated[int, typer.Option(help="tokens that are written")] = 32,
    batches: Annotated[str, typer.Option(help="texts that are written at once")] = "1,4",
    threads: Annotated[int | None, typer.Option(help="CPU threads; torch's own number")] = None,
    turns: Annotated[
        int, typer.Option(help="fresh processes of each; fewer than 8 do not bound the gain")
    ] = ENOUGH,
    repeats: Annotated[
        int, typer.Option(help="texts that each process writes; their median counts")
    ] = 3,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="nothing on stderr")] = False,
) -> None:
    """Time pruned language models beside the dense one, in turns, in fresh processes.

    A turn is a fresh process of each, one after the other, and gives one ratio; the gain is their
    median. The result is kept in each folder's evaluations.json, where steppe report finds it.
    With several models, a table says which are worth a look: the others are dominated.
    """
    flags: dict[str, Any] = {
        "dense": dense,
        "sparse": sparse,
        "dtypes": dtypes,
        "prompt": prompt,
        "tokens": tokens,
        "batches": batches,
        "threads": threads,
        "turns": turns,
        "repeats": repeats,
        "text": text,
        "window": window,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    times = "steppe evaluate RUN --on latency --beside DENSE_RUN"
    check_language(runs, "steppe bench times language models", times)
    measured = _measured(list(dict.fromkeys(runs)), given, quiet)
    kept = [keep("speed", *one) for one in measured]  # before anything is made of it
    with courtesy("the table"):
        (_say_many if len(measured) > 1 else _say_one)(measured, quiet)
    for lost in filter(None, kept):
        say(f"note: {lost}")
    emit(_plain({evaluation.run: result for evaluation, result in measured}), json)


def _measured(runs: list[str], given: dict[str, Any], quiet: bool) -> list[Measured]:
    """Each run as it was measured, and its result.

    Raises:
        SteppeError: several without a text, or what the measurement refuses.
    """
    if len(runs) > 1 and "text" not in given:
        raise SteppeError(
            "several models are compared by what they predict, how large and how fast they are",
            got=f"{', '.join(runs)} and no text",
            way_out="--text FILE, or one folder",
        )
    evaluations = [make("speed", run, given, []) for run in runs]
    with ProgressLine(quiet) as line, watched(line):
        return measured_together([e for e in evaluations if isinstance(e, GenerationSpeed)])


def _plain(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What stands on stdout."""
    if len(results) == 1:
        ((run, result),) = results.items()
        return {**result, "run": run}
    points = trade_offs(results)
    plain = {name: asdict(point) for name, point in points.items()}
    return {"runs": results, "points": plain, "dominated": dominated(points)}


def _say_one(measured: list[Measured], quiet: bool) -> None:
    ((evaluation, result),) = measured
    if not quiet:
        Console(stderr=True).print(_table(result))
    told = evaluation.line(result, read_record(evaluation.run))
    for text in (
        told,
        *_qualities(result),
        *_notes(result, evaluation.dense in (None, evaluation.run)),
    ):
        say(text, quiet)


def _say_many(measured: list[Measured], quiet: bool) -> None:
    points = trade_offs({evaluation.run: result for evaluation, result in measured})
    if not quiet:
        Console(stderr=True).print(_points_table(points))
    for name, point in points.items():
        beaten = [
            f"in {axis} by {by[name]}" for axis, by in dominated(points).items() if name in by
        ]
        if len(beaten) == len(AXES):
            say(f"{name} is dominated: {', '.join(beaten)}", quiet)
        if point.speed:
            say(f"{name}: {point.speed['ratio']:.2f}x, {verdict(dict(point.speed))}", quiet)


def _points_table(points: dict[str, TradeOff]) -> Table:
    """A row for each model, with a mark where it is not dominated."""
    beaten = dominated(points)
    caption = (
        f"{MARK}: no other model predicts no worse and is no larger, or no slower, there; a model "
        "without one is dominated. Packed: each matrix as one bit for each weight and the values "
        "that are kept, where that is smaller."
    )
    table = Table(caption=caption, caption_justify="left")
    table.add_column("", overflow="fold")
    table.add_column("kind")
    for head in ("perplexity", "disk, MB", "packed, MB", "tokens/s"):
        table.add_column(head, justify="right")
    for name, point in points.items():
        shown = {
            "disk": f"{point.disk_bytes / 1e6:.4g}",
            "packed": f"{point.packed_bytes / 1e6:.4g}",
            "speed": f"{point.rate:.4g}",
        }
        cells = (f"{MARK} {v}" if name not in beaten[axis] else v for axis, v in shown.items())
        table.add_row(name, point.kind, f"{point.perplexity:.2f}", *cells)
    return table


def _qualities(result: dict[str, Any]) -> list[str]:
    """What both models predict, where a text was given."""
    if "points" not in result:
        return []
    dense, sparse = (result["points"][kind] for kind in ("dense", "sparse"))
    both = f"perplexity {sparse['perplexity']:.2f}, dense {dense['perplexity']:.2f}"
    return [f"{both}, on {dense['source']}"]


def _table(result: dict[str, Any]) -> Table:
    """A column for each arm, a row for each figure, so that any number of batches fits."""
    arms = result["arms"]
    looks = " An arm without turns was slower in the first look."
    caption = MEMORY + looks * any(not arm["turns"] for arm in arms.values())
    table = Table(caption=caption, caption_justify="left")
    table.add_column("")
    for name in arms:
        table.add_column(name.replace(" ", "\n"), justify="right")
    for batch in result["speed"]:
        for key, what in (("tokens_per_second", "writes"), ("prompt_tokens_per_second", "reads")):
            rates = [f"{arm['batches'][batch][key]:.4g}" for arm in arms.values()]
            table.add_row(f"{what}, batch {batch}, tokens/s", *rates)
    table.add_section()
    for key, what in _BYTES.items():
        table.add_row(f"{what}, MB", *(_megabytes(arm[key]) for arm in arms.values()))
    table.add_section()
    table.add_row("loading, s", *(f"{arm['load_seconds']:.1f}" for arm in arms.values()))
    table.add_row("turns", *(str(arm["turns"] or "a look") for arm in arms.values()))
    return table


def _megabytes(value: float | None) -> str:
    return "not known" if value is None else f"{value / 1e6:.4g}"


def _notes(result: dict[str, Any], of_itself: bool) -> list[str]:
    """Which formats, and what is not as it should be.

    Args:
        result: of the measurement.
        of_itself: whether the dense model has the same weights.
    """
    layers = result["formats"]
    formats = Counter((layer["format"], layer["stored"]) for layer in layers)
    listed = [f"{count} {name} ({stored})" for (name, stored), count in formats.most_common()]
    notes = [f"matrices: {', '.join(listed)}"] if listed else []
    reasons = Counter(layer["why"] for layer in layers if layer["format"] == "dense")
    notes += [f"dense, {count}: {why}" for why, count in reasons.most_common(3)]
    different = [dtype for dtype, same in result["same_text"].items() if not same]
    if different and of_itself:
        notes.append(
            f"note: the texts differ in {', '.join(different)}: sums are rounded in another order"
        )
    return notes
