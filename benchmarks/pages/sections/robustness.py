"""Robustness and flatness: ADMM beside SAFE."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from ..cells import Cell, Table, cell, half_range
from ..registry import table
from ..sources import grouped, record

METHODS = {"admm": "ADMM", "safe": "SAFE"}
LEVELS = ("0.9", "0.95", "0.98", "0.99")
RATES = ("0.25", "0.5", "0.75")


def networks(which: str = "robustness") -> dict[Any, list[dict[str, Any]]]:
    """By their names, without the seed."""
    rows = record(which)["networks"]
    return grouped((row | {"key": row["name"].rpartition("-seed")[0]} for row in rows), "key")


def rows_of(cells: Callable[[list[dict[str, Any]]], list[Cell]]) -> list[list[str | Cell]]:
    """Dense, then ADMM and SAFE at each sparsity."""
    own = networks()
    rows: list[list[str | Cell]] = [["dense", "–", *cells(own["dense"])]]
    for level in LEVELS:
        for name, shown in METHODS.items():
            rows.append([shown, f"{100 * float(level):g} %", *cells(own[f"{name}-{level}"])])
    return rows


def corrupted(network: dict[str, Any], severity: str, extra: bool) -> float:
    """The mean over the 15 common kinds, or the 4 extra ones."""
    found = network["corruptions"]
    kinds = [kind for kind in found["accuracy"] if (kind in found["extra"]) == extra]
    return statistics.mean(found["accuracy"][kind][severity] for kind in kinds)


@table("robustness")
def robustness() -> Table:
    groups = {f"15 kinds, severity {s}": (s, False) for s in ("3", "5")}
    groups |= {f"4 extra, severity {s}": (s, True) for s in ("3", "5")}

    def cells(own: list[dict[str, Any]]) -> list[Cell]:
        attacks = [
            half_range((next(iter(n["attacks"]["accuracy"][norm].values())) for n in own), 1, 100)
            for norm in ("linf", "l2")
        ]
        return [
            half_range((n["accuracy"] for n in own), 1, 100),
            *(half_range((corrupted(n, *g) for n in own), 1, 100) for g in groups.values()),
            half_range((n["corruptions"]["relative"] for n in own), 3),
            *attacks,
        ]

    head = ["method", "zeros", "clean", *groups, "R_C", "PGD l∞ 1/255", "PGD l2 3/255"]
    return Table(head, rows_of(cells))


@table("robustness-flatness")
def flatness() -> Table:
    def cells(own: list[dict[str, Any]]) -> list[Cell]:
        sharp = [n["sharpness"] for n in own]
        return [
            half_range((s["top_eigenvalue"] for s in sharp), 1),
            half_range((s["ball"] for s in sharp), 2),
            half_range((s["one_step"] for s in sharp), 2),
        ]

    head = ["method", "zeros", "top Hessian eigenvalue", "sharpness, radius 0.1", "one step"]
    return Table(head, rows_of(cells))


@table("label-noise")
def label_noise() -> Table:
    own = networks()
    rows: list[list[str | Cell]] = []
    for rate in RATES:
        both = [own[f"{name}-noise{rate}"] for name in METHODS]
        accuracy = [half_range((n["accuracy"] for n in one), 1, 100) for one in both]
        learnt = [half_range((n["label_noise"]["given"] for n in one), 1, 100) for one in both]
        rows.append([f"{100 * float(rate):g} %", *accuracy, *learnt])
    learnt_heads = [f"{shown}: wrong label learnt" for shown in METHODS.values()]
    return Table(["wrong labels", *METHODS.values(), *learnt_heads], rows)


@table("corruption-kinds")
def kinds() -> Table:
    own = networks()
    columns = {"dense": "dense"}
    columns |= {
        f"{name}-{level}": f"{shown} {100 * float(level):g}"
        for level in LEVELS
        for name, shown in METHODS.items()
    }
    found = own["dense"][0]["corruptions"]
    rows: list[list[str | Cell]] = []
    for kind in found["accuracy"]:
        cells = []
        for column in columns:
            at = [[n["corruptions"]["accuracy"][kind][s] for n in own[column]] for s in ("3", "5")]
            cells.append(cell("{:.0f}/{:.0f}", *(100 * statistics.mean(one) for one in at)))
        extra = " (extra)" if kind in found["extra"] else ""
        rows.append([kind.replace("_", " ") + extra, *cells])
    return Table(["corruption", *columns.values()], rows)


def more() -> Table:
    own = networks("robustness-more")
    rows: list[list[str | Cell]] = []
    for name, shown in METHODS.items():
        few = own[f"{name}-few"]
        learnt = [
            half_range((n["label_noise"][key] for n in few), 1, 100) for key in ("given", "clean")
        ]
        rows.append([shown, half_range((n["accuracy"] for n in few), 1, 100), *learnt])
    return Table(["", "accuracy", "wrong label learnt", "right label found"], rows)
