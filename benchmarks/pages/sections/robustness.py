"""Robustness and flatness: ADMM beside SAFE."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

from ..cells import Cell, Table, cell, half_range
from ..registry import TEST_IMAGES, Cited, Claim, at_most, claims, table
from ..sources import grouped, over_15_kinds, papers, recipe, record
from .cifar10_small import steps

PAGE, SECTION = "docs/results.md", "Robustness and flatness: ADMM beside SAFE"
METHODS = {"admm": "ADMM", "safe": "SAFE"}
LEVELS = ("0.9", "0.95", "0.98", "0.99")
RATES = ("0.25", "0.5", "0.75")


def networks(which: str = "robustness") -> dict[Any, list[dict[str, Any]]]:
    """By their names, without the seed."""
    rows = map(over_15_kinds, record(which)["networks"])
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


SETTINGS = ["src/steppe/recipes/robustness/*.yaml", "benchmarks/robustness_*.py"]


def both(own: Table, column: str) -> list[tuple[float, float]]:
    """(ADMM's, SAFE's) at each sparsity."""
    levels = [f"{100 * float(level):g} %" for level in LEVELS]
    return [(own[f"ADMM {level}", column], own[f"SAFE {level}", column]) for level in levels]


def ahead(column: str) -> list[float]:
    """SAFE before ADMM at each sparsity."""
    return [safe - admm for admm, safe in both(robustness(), column)]


@claims(PAGE, SECTION, SETTINGS)
def set_up() -> Iterator[Claim]:
    total = steps("robustness/safe")
    yield "training images ({} steps of 64, bf16 autocast)", total
    yield "Clean accuracy on all 10,000 test images", TEST_IMAGES
    errors = [100 * (0.25 / images) ** 0.5 for images in (1000, 500)]
    yield "has an error of up to {} and {} points", *errors
    noise = recipe("robustness/safe-noise")
    images, batch = noise["data"]["train_size"], noise["train"]["batch_size"]
    sparsity = 100 * noise["method"]["sparsity"]
    yield "{} % zeros as in the paper's Table 2; {} images", sparsity, images
    yield "{} epochs of {} steps); accuracy", noise["train"]["epochs"], images // batch
    yield "In {} steps nobody learns the wrong labels", noise["train"]["epochs"] * (images // batch)


@claims(PAGE, SECTION, SETTINGS)
def flat_and_accurate() -> Iterator[Claim]:
    top, ball = (
        [admm / safe for admm, safe in both(flatness(), column)][:3]
        for column in ("top Hessian eigenvalue", "sharpness, radius 0.1")
    )
    yield "by {} to {} and {} to {} times, beyond", min(top), max(top), min(ball), max(ball)
    yield (
        "The paper's factor for a small network (0.09 against 0.2)",
        Cited("the SAFE paper: the largest Hessian eigenvalue of a network for MNIST at 90 %"),
    )
    paper = recipe("safe/cifar10-resnet20x2")["train"]["epochs"]
    yield "The paper has it ahead everywhere, after {} epochs from scratch", paper
    at_90, at_95, at_98, at_99 = ahead("clean")
    yield "SAFE is {} and {} points ahead at 98 and 99 %", at_98, at_99
    yield "and {} and {} *behind* at 90 and 95 %", -at_90, -at_95


@claims(PAGE, SECTION)
def corrupted_and_attacked() -> Iterator[Claim]:
    own = networks()
    wins, cells = [], 0
    for level in LEVELS:
        admm, safe = (accuracies(own[f"{name}-{level}"]) for name in METHODS)
        wins.append(sum(safe[key] > admm[key] for key in admm))
        cells = len(admm)
    yield "SAFE is ahead in {}, {}, {} and {} of {} cells at 90, 95, 98 and 99 %", *wins, cells
    theirs = {(r["method"], r["zeros_pct"], r["quantity"]): r["value"] for r in papers("SAFE", "3")}
    gaps = [
        float(theirs["safe", zeros, quantity]) - float(value)
        for (method, zeros, quantity), value in theirs.items()
        if method == "admm" and quantity.startswith("corrupted")
    ]
    yield "The paper reports SAFE ahead by {} to {} points at each sparsity", min(gaps), max(gaps)
    linf = ahead("PGD l∞ 1/255")
    yield "At 1/255 SAFE is ahead by {} to {} points at every sparsity", min(linf), max(linf)
    losses = [
        100 * (n["attacks"]["clean"] - next(iter(n["attacks"]["accuracy"]["l2"].values())))
        for n in record("robustness")["networks"]
        if "attacks" in n
    ]
    yield "so small that no network loses more than {} points", at_most(max(losses))


def accuracies(seeds: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """Kind and severity -> the mean over the seeds."""
    one = seeds[0]["corruptions"]["accuracy"]
    return {
        (kind, s): statistics.mean(n["corruptions"]["accuracy"][kind][s] for n in seeds)
        for kind in one
        for s in one[kind]
    }


@claims(PAGE, SECTION)
def wrong_labels() -> Iterator[Claim]:
    own, rates = label_noise(), [f"{100 * float(rate):g} %" for rate in RATES]
    behind = [own[rate, "ADMM"] - own[rate, "SAFE"] for rate in rates]
    theirs = {(r["method"], r["zeros_pct"], r["quantity"]): r["value"] for r in papers("SAFE", "2")}
    gaps = [
        float(theirs["safe", "70", f"wrong_labels {rate}"])
        - float(theirs["admm", "70", f"wrong_labels {rate}"])
        for rate in (25, 50, 75)
    ]
    yield (
        "SAFE is behind ADMM by {}, {} and {} points at 25, 50 and 75 %, where the paper has it "
        "ahead by {}, {} and {}.",
        *(*behind, *gaps),
    )
    learnt = [own[rate, f"{name}: wrong label"] for rate in rates for name in ("ADMM", "SAFE")]
    at_random = [(100 - own[rate, name]) / 9 for rate in rates for name in ("ADMM", "SAFE")]
    yield (
        "({} to {} %, where errors at random would hit {} to {} %)",
        *(min(learnt), max(learnt), min(at_random), max(at_random)),
    )
    seeds = sorted(100 * n["accuracy"] for n in networks()["admm-noise0.5"])
    yield "One ADMM seed at 50 % noise ended at {} %, the other at {} %", *seeds
