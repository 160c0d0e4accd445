"""``steppe report``: runs, compared on one page."""

from __future__ import annotations

import shlex
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from steppe.cli.main import emit, say
from steppe.cli.short import say_short
from steppe.core.errors import SteppeError
from steppe.core.serialization import write_text
from steppe.report.html import write_report
from steppe.report.in_short import InShort
from steppe.report.markdown import data, markdown
from steppe.report.record import read_records
from steppe.report.run_folders import finished

SUFFIX = {"html": ".html", "md": ".md", "json": ".json"}


def add(app: typer.Typer) -> None:
    app.command("report", short_help="Put any number of runs into one report.")(command)


def command(
    runs: Annotated[list[Path], typer.Argument(help="folders of finished runs, or record files")],
    out: Annotated[
        Path | None, typer.Option(help="the file; report.html, .md or .json if none is given")
    ] = None,
    format: Annotated[str, typer.Option(help="html, md or json; by --out's ending")] = "",
    title: Annotated[str, typer.Option(help="the heading")] = "steppe report",
    json: Annotated[bool, typer.Option("--json", help="the report as JSON on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="nothing on stderr")] = False,
) -> None:
    """One offline file: how sparse, accurate, robust, flat, fast; with what evaluate measured."""
    if out is not None and out.is_dir():
        raise SteppeError(
            "--out names the report's file",
            got=f"{out}, a folder",
            way_out=f"--out {shlex.quote(str(out / 'report.html'))}",
        )
    kind = format or (out.suffix.removeprefix(".").lower() if out is not None else "html")
    if kind not in SUFFIX:
        raise SteppeError(
            "a report is html, md or json",
            got=repr(kind),
            way_out="--format html, or --out report.html",
        )
    path = out if out is not None else Path("report" + SUFFIX[kind])
    other = shlex.quote(str(path.with_suffix(SUFFIX[kind])))
    if format and out is not None and out.suffix.lower() not in ("", SUFFIX[kind]):
        raise SteppeError(
            "--out and --format must name one kind of file",
            got=f"{out} and {format}",
            way_out=f"leave --format out, or --out {other}",
        )
    runs, notes = finished(runs)
    for note in notes:
        say(f"note: {note}", quiet)
    records = read_records(runs)
    again = shlex.join(["steppe", "report", *map(str, runs), "--out", str(path)])
    result = data(records, title=title, commands=[again])
    if kind == "html":
        write_report(path, title=title, records=records, commands=[again])
    elif kind == "md":
        write_text(path, markdown(records, title=title, commands=[again]))
    else:
        write_text(path, dumps(result, indent=1) + "\n")
    say_short(InShort.of(records), quiet)
    say(f"report: {path.resolve()}", quiet)
    emit(result | {"report": str(path)}, json)
