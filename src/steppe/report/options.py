"""The options of a run by dotted names, as its record has them, and how a report writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.protocols import AXES
from steppe.method import Method
from steppe.methods import METHODS
from steppe.report.record import Record, find

_ASIDE = ("name", "budget.sparsity", "sparsity", "language")
"""What does not make another method of it."""
_ELSEWHERE = (
    *("method", "data.label_noise.rate"),
    *("name", "task", "device", "model.name", "dense.name", "recover.dense"),
)
"""Of a recipe: what is looked at elsewhere, and what only says where something lies."""
_PRUNING = "pruning"
_TABLE = "channels.table"


def method_options(record: Record) -> dict[str, Any]:
    """What the method of a run is: its parts in full where they are known.

    What it started from, if that was pruned, comes under ``pruning``.
    """
    own = _method(record)
    past = find(record, _PRUNING)
    return own | (_under(_PRUNING, method_options(past)) if isinstance(past, Mapping) else {})


def method_defaults(record: Record) -> dict[str, Any]:
    """The same of the published method of that name."""
    own = _default(record)
    past = find(record, _PRUNING)
    return own | (_under(_PRUNING, method_defaults(past)) if isinstance(past, Mapping) else {})


def recipe_options(record: Record) -> dict[str, Any]:
    """What else decides the result of a run; nothing that differs from seed to seed.

    Example:
        >>> recipe_options({"recipe": {"seed": 1, "train": {"lr": 0.1}, "model": {"name": "a"}}})
        {'train.lr': 0.1}
    """
    recipe = find(record, "recipe")
    whole = flat(recipe) if isinstance(recipe, Mapping) else {}
    own = {
        key: value
        for key, value in whole.items()
        if not any(key == aside or key.startswith(f"{aside}.") for aside in _ELSEWHERE)
        and key.rpartition(".")[2] not in ("seed", "fingerprint", "sha256")
    }
    if _TABLE in own and (said := table_of(record)):
        own[_TABLE] = said
    past = find(record, _PRUNING)
    return own | (_under(_PRUNING, recipe_options(past)) if isinstance(past, Mapping) else {})


def table_of(record: Record) -> str:
    """The table of layers by what it says of the dense network: its path is no difference.

    Example:
        >>> table_of({"removed": {"target": "ms", "cost": [8.0, 5.0]}}), table_of({})
        ('of 8 ms', '')
    """
    removed = find(record, "removed") or {}
    cost = removed.get("cost") if removed.get("target") == "ms" else None
    return f"of {float(cost[0]):.6g} ms" if cost else ""


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Dotted place -> value; a list of plain values is one value, others go by their number.

    Example:
        >>> flat({"budget": {"tokens": [1, 2]}, "phases": [{"rho": 0.1}]})
        {'budget.tokens': (1, 2), 'phases.0.rho': 0.1}
    """
    pairs = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    leaves: dict[str, Any] = {}
    for key, value in pairs:
        place = f"{path}.{key}" if path else str(key)
        if place in _ASIDE:
            continue
        if isinstance(value, Mapping) and all(str(inner).isidentifier() for inner in value):
            leaves |= flat(value, place)
        elif isinstance(value, Mapping):  # patterns, each with a value
            leaves[place] = tuple(f"{name}={_short(one)}" for name, one in value.items())
        elif isinstance(value, list | tuple) and any(map(_nested, value)):
            leaves |= flat(value, place)
        elif isinstance(value, list | tuple):
            leaves[place] = tuple(value)
        else:
            leaves[place] = value
    return leaves


def named(key: str, value: Any, beside: set[str]) -> str:
    """An option in a run's name.

    Args:
        key: its dotted name.
        value: its value.
        beside: the names of all that are shown.

    Example:
        >>> named("train.lr", 0.002, {"train.lr"}), named("coupling.held", False, set())
        ('lr 0.002', 'not held')
        >>> named("train.tokens", 2_000_000, set()), named("budget.survivors", (8, 2, 1), set())
        ('tokens 2M', 'survivors 8/2/1')
        >>> named("data.window", 16, {"data.window", "evaluate.window"})
        'data window 16'
    """
    path = key.removesuffix(".name").split(".")
    same = [other for other in beside if other.removesuffix(".name").split(".")[-1] == path[-1]]
    name = " ".join(path[-2:] if len(same) > 1 else path[-1:])
    if path[0] == _PRUNING and len(same) < 2:
        name = f"{_PRUNING} {path[-1]}"
    if isinstance(value, bool):
        return name if value else f"not {name}"
    return f"{name} {_short(value)}"


def _short(value: Any) -> str:
    """A value in a few letters; of a file its name alone, of a long list its ends."""
    if isinstance(value, list | tuple):
        shown = [_short(one) for one in value]
        middle = [*shown[:2], "…", shown[-1]] if len(shown) > 4 else shown
        return "/".join(middle) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int) and value >= 10_000 and value % 1000 == 0:
        return f"{value / 1e6:g}M" if value >= 1_000_000 else f"{value // 1000}k"
    return "none" if value is None else str(value).rstrip("/").rpartition("/")[2]


def _nested(value: Any) -> bool:
    """Whether there is an option with a name of its own in it."""
    if isinstance(value, list | tuple):
        return any(map(_nested, value))
    return isinstance(value, Mapping)


def _under(place: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{place}.{key}": value for key, value in options.items()}


def _method(record: Record) -> dict[str, Any]:
    stored = find(record, "parts") or find(record, "recipe.method")
    if not isinstance(stored, Mapping):
        return {}
    try:
        method = Method.from_dict(stored)  # an earlier version knew fewer options
        parts = method.to_dict()
    except (SteppeError, TypeError, LookupError):  # a name and options, or another package's
        return flat(_spelled(stored))
    return _patterned(flat(parts)) | _earlier(method, stored)


def _earlier(method: Method, stored: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"steps": "of an earlier version"} if method.changed_since(stored) else {}
    except LookupError:  # not all parts are there
        return {}


def _default(record: Record) -> dict[str, Any]:
    name = str(record.get("method"))
    if name not in METHODS:
        return {}
    method = METHODS[name].example()
    objective = find(record, "parts.objective.name") or find(record, "recipe.method.objective.name")
    if method.has_language_form and objective not in (None, method.objective.name):
        method = method.for_language()
    options = {k: o.default for k, o in METHODS[name].options.items()}
    return _patterned(flat(_spelled(options)) | flat(method.to_dict()))


def _patterned(options: dict[str, Any]) -> dict[str, Any]:
    """With the structure's name as people write it, where it keeps n of m.

    Example:
        >>> _patterned({"structure.name": "nm", "structure.n": 2, "structure.m": 4})
        {'structure.name': '2:4'}
    """
    n, m = (options.get(f"structure.{key}") for key in "nm")
    if n is None or m is None:
        return options
    others = {k: v for k, v in options.items() if k not in ("structure.n", "structure.m")}
    return others | {"structure.name": f"{n}:{m}"}


def _spelled(options: Mapping[str, Any]) -> dict[str, Any]:
    """With a mapping for each part that is given by its name alone."""
    axes = {axis.registry.kind for axis in AXES}
    return {
        key: {"name": value} if key in axes and isinstance(value, str) else value
        for key, value in options.items()
    }
