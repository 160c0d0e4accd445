"""``steppe export``: a pruned model in a form that makes use of its zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steppe.cli.main import emit, say
from steppe.llm.export import export


def add(app: typer.Typer) -> None:
    app.command("export", short_help="Store a pruned language model smaller, or 2:4.")(command)


def command(
    run: Annotated[Path, typer.Argument(help="a pruned language model's folder")],
    to: Annotated[str, typer.Option(help="compact, or 2:4 on a GPU")],
    out: Annotated[Path, typer.Option(help="the folder to write")],
    device: Annotated[str | None, typer.Option(help="2:4: where to measure, e.g. cuda")] = None,
    tokens: Annotated[
        str | None, typer.Option(help="2:4: tokens per forward pass to measure, e.g. 1,64,1024")
    ] = None,
    verify: Annotated[
        str | None, typer.Option(help="compact: logits, or tensors when memory is short")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="nothing on stderr")] = False,
) -> None:
    """Write a pruned model smaller (compact), or with the 2:4 layers that measure faster."""
    done = export(run, to, out, device=device, tokens=tokens, verify=verify)
    for line in done.lines:
        say(line, quiet)
    say(f"written to {out}", quiet)
    emit(done.record | {"out": str(out)}, json)
