"""SAFE at its paper's length: 60,000 steps from scratch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..cells import Cell, Table, cell, half_range
from ..registry import TEST_IMAGES, Claim, about, claims, table
from ..sources import grouped, recipe, record

PAGE, SECTION = "docs/results.md", "SAFE at its paper's length: 60,000 steps from scratch"
ARMS = {
    "gmp": "GMP",
    "gmp-sam": "GMP + SAM",
    "admm": "ADMM, constant 1e-3",
    "safe": "SAFE, cosine 1e-3",
    "admm-auto": "ADMM, automatic",
    "safe-auto": "SAFE, automatic",
}
LEVELS = ("0.95", "0.98")
Seeds = list[dict[str, Any]]


def networks() -> dict[Any, Seeds]:
    """By their names, without the seed."""
    rows = record("long")["networks"]
    return grouped((row | {"key": row["name"].rpartition("-seed")[0]} for row in rows), "key")


def rows_of(cells: Callable[[Seeds], list[str | Cell]], last: str = "") -> list[list[str | Cell]]:
    """Dense, then every arm that was run at each sparsity."""
    own = networks()
    rows: list[list[str | Cell]] = [["dense", "–", *cells(own["dense"])]]
    for level in LEVELS:
        for name, shown in ARMS.items():
            if seeds := own.get(f"{name}-{level}"):
                rows.append([shown, f"{100 * float(level):g} %", *cells(seeds)])
    return rows


def corrupted(network: dict[str, Any], severity: str) -> float:
    """The mean over the 15 common kinds."""
    result = network["corruptions"]
    kinds = [kind for kind in result["accuracy"] if kind not in result["extra"]]
    return statistics.mean(result["accuracy"][kind][severity] for kind in kinds)


def attacked(network: dict[str, Any], norm: str) -> float:
    """At the one radius there is."""
    (accuracy,) = network["attacks"]["accuracy"][norm].values()
    return float(accuracy)


def rise(network: dict[str, Any], distance: float) -> float:
    """Of the loss along the random direction of the landscape, the mean of both sides."""
    places, line = network["landscape"]["places"], network["landscape"]["line"]
    at = {round(place, 6): loss for place, loss in zip(places, line, strict=True)}
    return float(at[distance] + at[-distance]) / 2 - float(at[0.0])


def percent(values: Iterable[float]) -> Cell:
    return half_range(values, 1, 100)


@table("long-accuracy")
def accuracy() -> Table:
    def cells(own: Seeds) -> list[str | Cell]:
        return [
            percent(n["accuracy"] for n in own),
            percent(n["accuracy_before_projection"] for n in own),
            percent(n["projection_distance"] for n in own),
            percent(corrupted(n, "3") for n in own),
            percent(corrupted(n, "5") for n in own),
            half_range((n["corruptions"]["r_c_15"] for n in own), 3),
            percent(attacked(n, "linf") for n in own),
            percent(attacked(n, "l2") for n in own),
            cell("{:g}", len(own)),
        ]

    clean = ["method", "zeros", "accuracy", "before the last projection", "moved, %"]
    robust = ["severity 3", "severity 5", "R_C", "PGD l∞ 1/255", "PGD l2 3/255", "seeds"]
    return Table([*clean, *robust], rows_of(cells))


@table("long-flatness")
def flatness() -> Table:
    def cells(own: Seeds) -> list[str | Cell]:
        sharp = [n["sharpness"] for n in own]
        return [
            half_range((s["top_eigenvalue"] for s in sharp), 1),
            half_range((s["ball"] for s in sharp), 3),
            half_range((s["one_step"] for s in sharp), 3),
            half_range((rise(n, 0.2) for n in own), 2),
        ]

    sharp = ["top Hessian eigenvalue", "sharpness, radius 0.1", "one step"]
    head = ["method", "zeros", *sharp, "landscape, 0.2 away"]
    return Table(head, rows_of(cells))


@table("long-wrong-labels")
def wrong_labels() -> Table:
    own = networks()
    rows: list[list[str | Cell]] = []
    for name in ("admm-auto", "safe-auto"):
        seeds = own[f"{name}-noise0.5"]
        learnt = [percent(n["label_noise"][key] for n in seeds) for key in ("given", "clean")]
        rows.append(
            [ARMS[name], percent(n["accuracy"] for n in seeds), *learnt, cell("{:g}", len(seeds))]
        )
    return Table(["", "accuracy", "wrong label learnt", "right label found", "seeds"], rows)


SETTINGS = ["src/steppe/recipes/long/cifar10-16px.yaml", "benchmarks/long_study.py"]


def steps() -> int:
    plain = recipe("long/cifar10-16px")
    return int(
        plain["train"]["epochs"] * (plain["data"]["train_size"] // plain["train"]["batch_size"])
    )


def pull(curve: Callable[[float], float]) -> float:
    """What a penalty of the recipe adds up to: sum of rate * penalty / (1 - momentum)."""
    plain = recipe("long/cifar10-16px")
    train, total = plain["train"], steps()
    warmup = train["warmup_epochs"] / train["epochs"]
    size = train["lr"] * plain["method"]["penalty"] / (1 - train["momentum"])

    def rate(t: float) -> float:
        return (
            t / warmup if t < warmup else (1 + math.cos(math.pi * (t - warmup) / (1 - warmup))) / 2
        )

    return size * sum(rate(k / total) * curve(k / total) for k in range(total))


@claims(PAGE, SECTION, SETTINGS)
def set_up() -> Iterator[Claim]:
    yield "length: {} steps from scratch", about(steps(), 0.01)
    yield "from scratch, {} steps of 64 images", steps()
    kinds = record("long")["networks"][0]["corruptions"]
    yield "the mean over the {} common kinds", len(kinds["accuracy"]) - len(kinds["extra"])
    yield "clean accuracy on all 10,000 test images", TEST_IMAGES


def mean(table_: Table, arm: str, level: str, column: str) -> float:
    return table_[f"{ARMS[arm]} {level}", column]


@claims(PAGE, SECTION, SETTINGS)
def accurate() -> Iterator[Claim]:
    own = accuracy()

    def at(arm: str, level: str, column: str = "accuracy") -> float:
        return mean(own, arm, level, column)

    first = [at(arm, "95 %") for arm in ("safe-auto", "admm-auto", "gmp")]
    yield (
        "SAFE reaches {} %, above ADMM under the same pull ({}), GMP ({}) "
        "and the dense network ({}),",
        *(*first, own["dense –", "accuracy"]),
    )
    deep = [at(arm, "98 %") for arm in ("safe-auto", "admm-auto", "admm", "gmp")]
    yield "At 98 % it is {}, ahead of ADMM under the same pull ({}) and with its own", *deep[:2]
    yield "constant penalty ({}) and level with GMP ({})", *deep[2:]
    sam = [at("gmp-sam", level) for level in ("95 %", "98 %")]
    yield "GMP + SAM has {} and {}: the perturbation", *sam
    behind = [at("admm", level) - at("safe", level) for level in ("95 %", "98 %")]
    yield "SAFE is behind ADMM by {} points at 95 % and {} at 98 %", *behind
    before = [at("safe", level, "before") for level in ("95 %", "98 %")]
    moved = [at("safe", level, "moved") for level in ("95 %", "98 %")]
    yield "most accurate of all ({} and {} %), but the projection", *before
    assert max(moved) - min(moved) < 1, "the page gives one figure"
    yield "moves {} % of the weights' norm", moved[0]
    yield (
        "its pull here is {}, against {} of ADMM's",
        *(pull(lambda t: (1 - math.cos(math.pi * t)) / 2), pull(lambda _: 1.0)),
    )
    left = [at("safe-auto", level, "moved") for level in ("95 %", "98 %")]
    yield "The automatic one leaves {} and {} % to the last projection", *left


@claims(PAGE, SECTION, SETTINGS)
def flat_and_robust() -> Iterator[Claim]:
    own, robust = flatness(), accuracy()
    columns = ("top Hessian eigenvalue", "sharpness", "one step")
    levels = ("95 %", "98 %")
    for words, column in zip(
        (
            "eigenvalue is {} and {} times",
            "its sharpness {} and {} times",
            "one step {} and {} times",
        ),
        columns,
        strict=True,
    ):
        ratios = [
            mean(own, "admm-auto", z, column) / mean(own, "safe-auto", z, column) for z in levels
        ]
        yield words, *ratios
    papers = [mean(own, "admm", z, columns[0]) / mean(own, "safe", z, columns[0]) for z in levels]
    yield "own penalties it is {} and {} times", *papers
    sharp = [mean(own, arm, z, columns[0]) for arm in ("gmp", "safe-auto") for z in levels]
    yield "Beside GMP's ({} and {}) SAFE's", *sharp[:2]
    yield "higher at 98 % ({} and {})", *sharp[2:]
    assert sharp[2] < sharp[0]
    assert sharp[3] > sharp[1]
    flattest = [mean(own, "gmp-sam", z, columns[0]) for z in levels]
    for z in levels:
        others = [mean(own, arm, z, columns[0]) for arm in ARMS]
        assert min(others) == mean(own, "gmp-sam", z, columns[0])
    yield "networks of GMP + SAM** ({} and {})", *flattest
    clean = [
        mean(robust, "safe-auto", z, "accuracy") - mean(robust, "admm-auto", z, "accuracy")
        for z in levels
    ]
    yield "ahead by {} and {} without corruption", *clean
    three = [mean(robust, arm, "95 %", "severity 3") for arm in ("gmp-sam", "safe-auto")]
    yield "({} at severity 3; SAFE {})", *three
    for severity in ("3", "5"):
        ahead = [
            mean(robust, "safe-auto", z, f"severity {severity}")
            - mean(robust, "admm-auto", z, f"severity {severity}")
            for z in levels
        ]
        yield f"by {{}} and {{}} points at severity {severity}", *ahead
    relative = [mean(robust, arm, "95 %", "R_C") for arm in ("safe-auto", "admm-auto", "gmp")]
    yield "({} and {}; GMP {}, dense {})", *(*relative, robust["dense –", "R_C"])
    attack = [mean(robust, arm, z, "PGD l∞") for z in levels for arm in ("safe-auto", "admm-auto")]
    yield "{} against {} % at 95 % zeros and {} against {} at 98 %", *attack
    beside = [mean(robust, "gmp", "95 %", "PGD l∞"), robust["dense –", "PGD l∞"]]
    yield (
        "GMP, which has {} at 95 %, dense {}, GMP + SAM {}",
        *beside,
        mean(robust, "gmp-sam", "95 %", "PGD l∞"),
    )


@claims(PAGE, SECTION, SETTINGS)
def labels() -> Iterator[Claim]:
    own, shown = wrong_labels(), [ARMS[arm] for arm in ("safe-auto", "admm-auto")]
    yield "SAFE has {} % and ADMM under the same pull {},", *(own[a, "accuracy"] for a in shown)
    learnt = [own[a, "wrong label"] for a in shown]
    yield "answers {} % of the wrongly labelled images as it was taught, ADMM {} %", *learnt
