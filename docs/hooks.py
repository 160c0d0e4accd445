"""What the documentation site takes from the code: parts, methods, commands, public names.

A page says ``<!-- generate: parts score -->``, and gets one entry of the reference for each part of
that axis. So the reference lists what is registered, and nothing is listed by hand. What stands
between ``<!-- in a clone -->`` and ``<!-- end -->`` is left out.
"""

from __future__ import annotations

import importlib
import inspect
import posixpath
import re
from collections.abc import Iterator
from typing import Any

import steppe
from steppe.cli import main
from steppe.core.protocols import AXES, Part
from steppe.methods import METHODS

CLONE = re.compile(r"<!-- in a clone -->.*?<!-- end -->\n+", re.DOTALL)
MARK = re.compile(r"<!-- generate: (\w+) ?([\w.]*) -->")
LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Fill in what is generated; links out of docs/ lead to the repository."""

    def outside(link: re.Match[str]) -> str:
        target, anchor = link[1], link[2] or ""
        if re.match(r"[a-z]+:", target):
            return link[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), target))
        if not place.startswith("../"):
            return link[0]
        return f"]({config.repo_url}/blob/main/{place.removeprefix('../')}{anchor})"

    markdown = markdown.replace(" ± ", "\u00a0±\u00a0")  # a figure and its error stay on one line
    built = CLONE.sub("", markdown)  # said to those who read the files as they are in git
    filled = MARK.sub(lambda mark: "\n".join(GENERATED[mark[1]](mark[2])), built)
    return LINK.sub(outside, filled)


def parts(kind: str) -> Iterator[str]:
    """An entry for each part of an axis, under its registered name."""
    registry = next(axis.registry for axis in AXES if axis.registry.kind == kind)
    for name in registry:
        yield from _entry(registry[name], name, members=False)


def methods(_: str) -> Iterator[str]:
    """An entry for each method."""
    for name in METHODS:
        yield from _entry(METHODS[name], name)


def public(_: str) -> Iterator[str]:
    """An entry for each public function of the package, then for each class."""
    named = {name: getattr(steppe, name) for name in steppe.__all__}
    for name, thing in sorted(named.items(), key=lambda item: isinstance(item[1], type)):
        if callable(thing):
            yield from _entry(thing, f"steppe.{name}", members=isinstance(thing, type))


def _entry(thing: Any, heading: str, members: bool = True) -> Iterator[str]:
    yield f"::: {thing.__module__}.{thing.__qualname__}"
    yield "    options:"
    yield f'      heading: "{heading}"'
    yield f'      toc_label: "{heading}"'
    if not members:
        yield "      members: false"
    yield ""


def protocols(_: str) -> Iterator[str]:
    """An entry for each class that parts inherit from, axis by axis."""
    for axis in AXES:
        yield f"## The axis {axis.registry.kind}"
        yield ""
        for protocol in _protocols_of(axis):
            yield from _entry(protocol, protocol.__name__)


def _protocols_of(axis: type[Part]) -> list[type[Part]]:
    """The axis' class and those beside it that say more, in the order of their file."""
    module = importlib.import_module(axis.__module__)
    beside = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, axis)]
    return [c for c in beside if c.__module__ == axis.__module__]


def registry(dotted: str) -> Iterator[str]:
    """The names in a registry, with the first line of what each says of itself."""
    module, _, attribute = dotted.rpartition(".")
    names = getattr(importlib.import_module(module), attribute)
    about = {name: _first_line(names[name]) for name in names}
    if len(set(about.values())) == 1 < len(about):  # objects of one class, which describes them all
        yield ", ".join(f"`{name}`" for name in about)
    else:
        yield "| name | what it is |"
        yield "|---|---|"
        yield from (f"| `{name}` | {text} |" for name, text in about.items())
    yield ""


def _first_line(thing: Any) -> str:
    doc = inspect.getdoc(thing) or ""
    generated = f"{getattr(thing, '__name__', '')}("  # what a dataclass gets for a docstring
    return "" if doc.startswith(generated) else doc.partition("\n")[0].replace("|", "\\|")


def commands(_: str) -> Iterator[str]:
    """A section for each command: what it does, its arguments and options."""
    for name, command in main.commands().commands.items():
        yield f"## steppe {name}"
        yield ""
        yield (command.help or "").strip()
        yield ""
        yield "| option | what it is | default |"
        yield "|---|---|---|"
        for option in command.params:
            yield _row(option)
        yield ""


def _row(option: Any) -> str:
    named = option.param_type_name == "option"
    shown = ", ".join(f"`{o}`" for o in option.opts) if named else f"`{option.name.upper()}`"
    default = option.default
    empty = default is None or default is False or default == [] or option.required
    text = (option.help or "").replace("|", "\\|")
    return f"| {shown} | {text} | {'' if empty else f'`{default}`'} |"


GENERATED = {
    "parts": parts,
    "methods": methods,
    "public": public,
    "protocols": protocols,
    "registry": registry,
    "commands": commands,
}
