"""Runs of one method that are not the same method: each gets a name of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.protocols import AXES
from steppe.method import Method
from steppe.methods import METHODS
from steppe.report.record import Record, display, find, is_dense, method_of, sparsity_of

_ASIDE = ("name", "budget.sparsity", "sparsity", "language")
"""What does not make another method of it."""


def told_apart(records: Sequence[Record]) -> list[Record]:
    """Records with a ``label`` where their method's name does not say what was run.

    A perturbation that is not the method's own is always named. Any other option is where two runs
    of one method and sparsity differ in it, unless it has its default. What has a label keeps it.

    Args:
        records: as `Rows.from_records` takes them.

    Example:
        >>> def run(**more):
        ...     return {"method": "taylor", "sparsity_asked": 0.5, "recipe": {"method": more}}
        >>> runs = [run(), run(perturb={"name": "sam", "rho": 0.1}), run(every=5), run()]
        >>> [r.get("label") for r in told_apart(runs)]
        [None, 'Taylor + SAM', 'Taylor, every 5', None]
    """
    open_ = [i for i, r in enumerate(records) if not (r.get("label") or is_dense(r))]
    options = {i: _options(records[i]) for i in open_}
    groups: dict[tuple[str, float | None], list[int]] = {}
    for i in open_:
        groups.setdefault((method_of(records[i]), sparsity_of(records[i])), []).append(i)
    differ: dict[str, set[str]] = {}
    for (method, _), members in groups.items():
        differ.setdefault(method, set()).update(_differing([options[i] for i in members]))
    named = list(records)
    for i in open_:
        record = records[i]
        said = _said(options[i], _default(record), differ[method_of(record)])
        if said:
            named[i] = {**record, "label": display(record) + said}
    return named


def _said(own: Mapping[str, Any], default: Mapping[str, Any], differ: set[str]) -> str:
    """What the name of a run says more than its method's."""
    usual = default.get("perturb.name", "none")
    perturb = own.get("perturb.name", usual)
    text = ""
    if perturb != usual:
        shown = re.sub(r"\b[am]?sam\b", lambda m: m[0].upper(), str(perturb).replace("_", " "))
        text = f" + {shown}" if usual == "none" else f" with {shown}"
        text = " without perturbation" if perturb == "none" else text
    for key in sorted(differ - {"perturb.name"}):
        value = own.get(key, default.get(key))
        if value is not None and value != default.get(key):
            parts = key.removesuffix(".name").split(".")
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            text += f", {parts[-1]} {shown}"
    return text


def _differing(options: Sequence[Mapping[str, Any]]) -> set[str]:
    """The options that are not the same in all; of a part, in those that have this part."""
    differ = set()
    for key in {key for own in options for key in own}:
        part = f"{key.rpartition('.')[0]}.name"
        first: dict[Any, Any] = {}
        for own in options:
            of_part = None if part == key else own.get(part)
            if first.setdefault(of_part, own.get(key)) != own.get(key):
                differ.add(key)
    return differ


def _options(record: Record) -> dict[str, Any]:
    """What the method of a run is, by dotted names: its parts in full where they are known."""
    parts = find(record, "parts") or find(record, "recipe.method")
    if not isinstance(parts, Mapping):
        return {}
    try:
        method = Method.from_dict(parts)  # an earlier version knew fewer options
        parts = method.to_dict()
    except (SteppeError, TypeError, LookupError):  # a name and options, or another package's
        return _flat(_spelled(parts))
    return _flat(parts) | _earlier(method, find(record, "parts") or find(record, "recipe.method"))


def _earlier(method: Method, stored: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"steps": "of an earlier version"} if method.changed_since(stored) else {}
    except LookupError:  # not all parts are there
        return {}


def _default(record: Record) -> dict[str, Any]:
    """The same of the published method of that name."""
    name = str(record.get("method"))
    if name not in METHODS:
        return {}
    method = METHODS[name].example()
    objective = find(record, "parts.objective.name") or find(record, "recipe.method.objective.name")
    if method.has_language_form and objective not in (None, method.objective.name):
        method = method.for_language()
    options = {k: o.default for k, o in METHODS[name].options.items()}
    return _flat(_spelled(options)) | _flat(method.to_dict())


def _spelled(options: Mapping[str, Any]) -> dict[str, Any]:
    """With a mapping for each part that is given by its name alone."""
    axes = {axis.registry.kind for axis in AXES}
    return {
        key: {"name": value} if key in axes and isinstance(value, str) else value
        for key, value in options.items()
    }


def _flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Dotted place -> value, those of lists by their number."""
    pairs = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    leaves: dict[str, Any] = {}
    for key, value in pairs:
        place = f"{path}.{key}" if path else str(key)
        if place in _ASIDE:
            continue
        if isinstance(value, Mapping | list | tuple):
            leaves |= _flat(value, place)
        else:
            leaves[place] = value
    return leaves
