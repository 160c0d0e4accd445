"""``steppe bench``: is a pruned language model faster and smaller here?"""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from steppe.cli.main import emit, say
from steppe.cli.progress_line import ProgressLine
from steppe.core.courtesy import courtesy
from steppe.engine.progress import watched
from steppe.evaluation import keep, make, read_record
from steppe.llm.generation_speed import ENOUGH

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


def add(app: typer.Typer) -> None:
    app.command("bench", short_help="Time a pruned language model beside the dense one.")(command)


def command(
    run: Annotated[str, typer.Argument(help="the pruned model's folder, plain or compact")],
    dense: Annotated[
        str | None, typer.Option(help="the model beside it; left out: the same, matrices dense")
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
    """Time a pruned language model beside the dense one, in turns, in fresh processes.

    A turn is a fresh process of each, one after the other, and gives one ratio; the gain is their
    median. The result is kept in the folder's evaluations.json, where steppe report finds it.
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
    }
    given = {key: value for key, value in flags.items() if value is not None}
    evaluation = make("speed", run, given, [])
    with ProgressLine(quiet) as line, watched(line):
        result = evaluation.measure()
    lost = keep("speed", evaluation, result)  # before anything is made of it
    with courtesy("the table"):
        if not quiet:
            Console(stderr=True).print(_table(result))
        for text in (evaluation.line(result, read_record(run)), *_notes(result)):
            say(text, quiet)
    if lost is not None:
        say(f"note: {lost}")
    emit({**result, "run": run}, json)


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


def _notes(result: dict[str, Any]) -> list[str]:
    """Which formats, and what is not as it should be."""
    layers = result["formats"]
    formats = Counter((layer["format"], layer["stored"]) for layer in layers)
    listed = [f"{count} {name} ({stored})" for (name, stored), count in formats.most_common()]
    notes = [f"matrices: {', '.join(listed)}"] if listed else []
    reasons = Counter(layer["why"] for layer in layers if layer["format"] == "dense")
    notes += [f"dense, {count}: {why}" for why, count in reasons.most_common(3)]
    different = [dtype for dtype, same in result["same_text"].items() if not same]
    if different:
        notes.append(
            f"note: the texts differ in {', '.join(different)}: sums are rounded in another order"
        )
    return notes
