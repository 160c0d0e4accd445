"""What a reader should know of the averages: mixed runs, repeated seeds, fallbacks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from steppe.report.column import ball
from steppe.report.level import at, level_of
from steppe.report.options import table_of
from steppe.report.record import (
    Record,
    attack_doubt,
    display,
    find,
    radii_of,
)

_START = "model.weights"


def _place(record: Record) -> str:
    return display(record) + at(level_of(record))


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Dotted path -> plain value.

    Example:
        >>> flat({"method": {"rho": 0.1}, "lr": [1, 2]})
        {'method.rho': 0.1, 'lr': [1, 2]}
    """
    if not isinstance(tree, Mapping):
        return {path: tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{path}.{key}" if path else str(key))
    return leaves


def _not_finite(tree: Any) -> bool:
    if isinstance(tree, Mapping):
        return any(map(_not_finite, tree.values()))
    if isinstance(tree, list | tuple):
        return any(map(_not_finite, tree))
    return isinstance(tree, float) and not isfinite(tree)


def notes(records: Sequence[Record]) -> list[str]:
    """Warnings about the averages, as sentences; and every fallback the runs took.

    Args:
        records: as `Rows.from_records` takes them.

    Returns:
        Sentences, none when all is well.

    Example:
        >>> notes([{"method": "gmp", "seed": 0}, {"method": "gmp", "seed": 0}])
        ['GMP: seed 0 is there 2 times; the runs are averaged as if they were independent.']
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_place(record), []).append(record)
    remarks = []
    for place, runs in groups.items():
        seeds = [json.dumps(r.get("seed"), default=str) for r in runs]
        for seed in dict.fromkeys(seeds):
            if (times := seeds.count(seed)) > 1:
                name = "no seed" if seed == "null" else f"seed {seed}"
                remarks.append(
                    f"{place}: {name} is there {times} times; the runs are averaged as if they "
                    "were independent."
                )
        if differ := _differences(runs):
            remarks.append(f"{place}: runs of different recipes are averaged ({differ}).")
        if any(map(_not_finite, runs)):
            remarks.append(f"{place}: a record holds NaN or infinity; it is left out of the means.")
        remarks += dict.fromkeys(doubt for run in runs for doubt in _doubts(place, run))
    fallbacks = [f"{_place(r)}: {text}" for r in records for text in _strings(r.get("fallbacks"))]
    return remarks + [f"Fallback taken, {text}" for text in dict.fromkeys(fallbacks)]


def _doubts(place: str, run: Record) -> list[str]:
    """Accuracies under attack that are left out, and why."""
    doubts = []
    for norm, eps in radii_of([run]):
        if doubt := attack_doubt(run, norm, eps):
            shares = find(run, f"evaluations.attacks.accuracy.{norm}")
            doubts.append(
                f"{place}: accuracy under attack, {ball(norm, eps)} ({shares[eps]:.2%}), cannot be "
                f"trusted and is left out: {doubt}."
            )
    return doubts


def _strings(items: Any) -> list[str]:
    return [str(item) for item in items] if isinstance(items, list | tuple) else []


def _flat(record: Record) -> dict[str, Any]:
    recipe = flat(record["recipe"])
    table = {"channels.table": said} if (said := table_of(record)) else {}
    return recipe | table


def _differences(runs: Sequence[Record]) -> str:
    """The recipe's options in which the runs differ, besides the seed."""
    told = [r for r in runs if isinstance(r.get("recipe"), Mapping)]
    recipes = [_flat(r) for r in told]
    seeds = {json.dumps(r.get("seed"), default=str) for r in told}
    differences = []
    for key in dict.fromkeys(key for recipe in recipes for key in recipe):
        values = list(dict.fromkeys(json.dumps(r.get(key), default=str) for r in recipes))
        if key == _START and len(values) == len(seeds):
            continue  # each seed from a dense run of its own
        if key != "name" and key.split(".")[-1] != "seed" and len(values) > 1:
            differences.append(f"{key}: {', '.join(values[:3])}")
    return "; ".join(differences[:4])
