"""``steppe methods``: what there is, and one method as its seven parts."""

from __future__ import annotations

import inspect
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from steppe import methods
from steppe.cli.main import emit
from steppe.core.part import Part
from steppe.core.protocols import AXES

_AXES = ("score", "structure", "budget", "schedule", "coupling", "perturb", "objective")


def add(app: typer.Typer) -> None:
    app.command("methods", short_help="List the methods, or explain one.")(command)


def command(
    name: Annotated[str | None, typer.Argument(help="one method in full, or a part")] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """List the methods, or show one as its seven parts, options and source."""
    # through a pipe nothing shall be cut off
    console = Console(width=None if sys.stdout.isatty() else 200)
    if name is None:
        examples = {n: methods.METHODS[n].example() for n in methods.METHODS}
        if json:
            return emit({n: m.to_dict() for n, m in examples.items()}, True)
        table = Table(box=None, pad_edge=False)
        table.add_column("method", no_wrap=True)
        for head in _AXES[:-1]:
            table.add_column(head)
        table.add_column("language models")
        for n, m in examples.items():
            names = [p.name for a, p in m.parts.items() if a != "objective"]
            table.add_row(n, *names, "yes" if m.has_language_form else "")
        console.print(table)
        return None
    if name not in methods.METHODS and (of := _axis_of(name)):
        part, kind = of.registry[name], of.registry.kind
        if json:
            return emit({"name": name, "axis": kind, "doc": inspect.getdoc(part)}, True)
        console.print(f"{name}: a part of axis {kind}\n", style="bold")
        console.print(inspect.getdoc(part) or "", markup=False, highlight=False)
        command = f"\nsteppe train RECIPE --set method.{kind}={name}"
        console.print(command, markup=False, highlight=False)
        return None
    method = methods.METHODS[name].example()
    build = methods.METHODS[name]
    if json:
        defaults = {k: option.default for k, option in build.options.items()}
        return emit(method.to_dict() | {"options": defaults, "doc": inspect.getdoc(build)}, True)
    console.print(f"{name}\n", style="bold")
    console.print(inspect.getdoc(build) or "", markup=False, highlight=False)
    table = Table(box=None, pad_edge=False, title="its parts (at 90 %)", title_justify="left")
    for head in ("axis", "part", "options"):
        table.add_column(head)
    for axis, part in method.parts.items():
        table.add_row(axis, part.name, _shown(part))
    for part in method.language:
        table.add_row(f"{part.registry.kind}, for language models", part.name, _shown(part))
    console.print()
    console.print(table)
    return None


def _axis_of(name: str) -> type[Part] | None:
    """The axis that has a part of that name."""
    return next((axis for axis in AXES if name in axis.registry), None)


def _shown(part: Part) -> str:
    """A part's options on one line."""
    fields: dict[str, Any] = part.to_dict()
    return ", ".join(f"{k}={v}" for k, v in fields.items() if k != "name")
