"""``steppe recipes``: the recipes that come with steppe, listed, shown or copied."""

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
    app.command("recipes", short_help="List the recipes of steppe, show or copy some.")(command)


def command(
    name: Annotated[str | None, typer.Argument(help="a recipe that is shown")] = None,
    copy: Annotated[str | None, typer.Option(help="a recipe or a folder of recipes")] = None,
    to: Annotated[Path | None, typer.Option(help="where the copy goes; here if left out")] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="no progress")] = False,
) -> None:
    """List the recipes that come with steppe, show or copy some; steppe train takes their names."""
    if name is not None and (copy is not None or to is not None):
        raise SteppeError(
            "a recipe is shown or copied",
            got=f"{name} with {'--to' if copy is None else '--copy'}",
            way_out=f"steppe recipes {name}, or steppe recipes --copy {name} --to DIR",
        )
    if copy is not None:
        written = recipes.copy(copy, to or Path())
        for file in written:
            say(f"written: {file}", quiet)
        say("nothing to copy: the same files are there already", quiet or bool(written))
        return emit({"copied": [str(file) for file in written]}, json)
    if to is not None:
        raise SteppeError(
            "--to says where a copy goes",
            got="no --copy",
            way_out="steppe recipes --copy NAME --to DIR",
        )
    if name is not None:
        return _show(name, json)
    listed = {name: recipes.about(name) for name in recipes.names()}
    if json:
        return emit({"recipes": listed}, True)
    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it is")
    for name, about in listed.items():
        table.add_row(name, about)
    Console().print(table)
    say("steppe recipes NAME shows one, --copy NAME copies it; steppe train NAME runs it", quiet)
    return None


def _show(name: str, json: bool) -> None:
    """The text of a recipe, which can go into a file as it is.

    Raises:
        SteppeError: no recipe is called so; of a folder, what is in it.
    """
    inside = [one for one in recipes.names() if one.startswith(f"{name.rstrip('/')}/")]
    if inside:
        raise SteppeError(
            "one recipe is shown at a time",
            got=f"{name}, a folder",
            way_out=f"one of {', '.join(inside)}",
        )
    text = recipes.text(name)
    if json:
        return emit({"recipe": name.removesuffix(".yaml"), "text": text}, True)
    print(text, end="")
    return None
