"""``steppe recipes``: the recipes that come with steppe, listed or copied."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from steppe import recipes
from steppe.cli.main import emit, say
from steppe.core.errors import SteppeError


def add(app: typer.Typer) -> None:
    app.command("recipes", short_help="List the recipes of steppe, or copy some.")(command)


def command(
    copy: Annotated[str | None, typer.Option(help="a recipe or a folder of recipes")] = None,
    to: Annotated[Path | None, typer.Option(help="where the copy goes; here if left out")] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """List the recipes that come with steppe, or copy some; steppe train takes them by name."""
    if copy is not None:
        written = recipes.copy(copy, to or Path())
        for file in written:
            say(f"written: {file}", quiet)
        return emit({"copied": [str(file) for file in written]}, json)
    if to is not None:
        raise SteppeError(
            "--to says where a copy goes",
            got="no --copy",
            way_out="steppe recipes --copy NAME --to DIR",
        )
    listed = {name: recipes.about(name) for name in recipes.names()}
    if json:
        return emit({"recipes": listed}, True)
    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it is")
    for name, about in listed.items():
        table.add_row(name, about)
    Console().print(table)
    say("steppe train NAME runs one; steppe recipes --copy NAME --to DIR copies it", quiet)
    return None
