"""``steppe methods``: what there is, and one method as its seven parts."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from steppe import methods
from steppe.cli.main import emit
from steppe.core.errors import SteppeError
from steppe.core.part import Part
from steppe.core.protocols import AXES, Coupling
from steppe.method import Method
from steppe.methods.options import SIZES

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
        if command := _taking(part):
            console.print(f"\n{command}", markup=False, highlight=False)
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


def _taking(part: type[Part]) -> str:
    """The command with a part in it, capitals for what is left to say; "" where no verb takes it.

    A part takes a recipe's sparsity, and what else it must be told is said.
    """
    axis = part.registry.kind
    asked = [f.name for f in dataclasses.fields(part) if f.name not in SIZES and _must_be_given(f)]
    if asked:
        blanks = ", ".join(f"{name}: {name.upper()}" for name in asked)
        return f"steppe train RECIPE --set 'method.{axis}={{name: {part.name}, {blanks}}}'"
    examples = [methods.METHODS[name].example() for name in methods.METHODS]
    if any(_trains_with(method, part) for method in examples):
        return f"steppe train RECIPE --set method.{axis}={part.name}"
    of_language = (m for m in examples if m.has_language_form)
    name = next((m.name for m in of_language if _with(m.for_language(), part)), None)
    job = f"--method {name} --sparsity 0.5 --set {axis}={part.name}"
    return f"steppe prune MODEL {job}" if name else ""


def _must_be_given(option: dataclasses.Field[Any]) -> bool:
    return option.default is option.default_factory is dataclasses.MISSING


def _with(method: Method, part: type[Part]) -> Method | None:
    """The method with a part in place of its own; None where it does not fit."""
    sizes = {f.name for f in dataclasses.fields(part)} & {"sparsity"}
    spec = {"name": part.name} | dict.fromkeys(sizes, method.sparsity)
    try:
        return method.replace(**{part.registry.kind: spec})
    except SteppeError:
        return None


def _trains_with(method: Method, part: type[Part]) -> bool:
    made = _with(method, part)
    if made is None or made.objective.scope != "task":
        return False
    return isinstance(made.coupling, Coupling)


def _shown(part: Part) -> str:
    """A part's options on one line."""
    fields: dict[str, Any] = part.to_dict()
    return ", ".join(f"{k}={v}" for k, v in fields.items() if k != "name")
