"""The summary of the results page: which method did best, and where."""

from __future__ import annotations

from collections.abc import Iterator

from ..cells import Table
from ..registry import Claim, about, claims
from ..sources import read, recipe
from . import cifar10_small, language_models, long_study, pilot, robustness


def best(table: Table, column: str, names: list[str]) -> str:
    """Who has the highest figure of a column."""
    return max(names, key=lambda name: table[name, column])


def won(table: Table, name: str, levels: list[str]) -> list[float]:
    """The sparsities at which a method of the table is the best."""
    names = [str(row[0]) for row in table.rows]
    return [percent(level) for level in levels if best(table, level, names) == name]


def percent(level: str) -> float:
    return float(level.removesuffix(" %"))


@claims("docs/results.md", "")
def in_short() -> Iterator[Claim]:
    yield "{} epochs) are ready to run", recipe("safe/cifar10-resnet20x2")["train"]["epochs"]
    demo = read("src/steppe/cli/demo.yaml")
    zeros = [100 * level for level in demo["sparsities"]]
    yield "digits, {} epochs, {} to {} % zeros", demo["train"]["epochs"], zeros[0], zeros[-1]
    small, levels = cifar10_small.cifar10_small(), list(cifar10_small.LEVELS)
    yield (
        "magnitude pruning with fine-tuning at {} and {} %, GMP at {} and {} %",
        *(*won(small, "magnitude", levels), *won(small, "gmp", levels)),
    )
    clean = dict(zip(robustness.LEVELS, robustness.ahead("clean"), strict=True))
    admm = [100 * float(level) for level, ahead in clean.items() if ahead < 0]
    safe = [100 * float(level) for level, ahead in clean.items() if ahead > 0]
    yield "ADMM leads at {} and {} %, SAFE at {} and {} %", *admm, *safe
    top = [one.text for row in robustness.flatness().rows for one in row[2:3] if row[1] == "99 %"]
    yield "SAFE is flatter (at {} % within the errors)", 99.0 if len(top) == 2 else 0.0
    long, levels = long_study.accuracy(), [f"{100 * float(z):g} %" for z in long_study.LEVELS]
    first, deep = (
        [long[f"{arm} {z}", "accuracy"] for arm in ("SAFE, automatic", "GMP")] for z in levels
    )
    assert first[0] - first[1] > 1 > abs(deep[0] - deep[1]), "ahead of GMP, then level with it"
    zeros = [percent(level) for level in levels]
    yield "{} steps from scratch on few small", about(long_study.steps(), 0.01)
    yield "few small images, {} and {} % zeros", *zeros
    yield "automatic penalty at {} %, level with GMP at {} %", *zeros
    shares = [percent(one) for one in language_models.LEVELS.values() if one.endswith("%")]
    yield "a small language model, {} to {} % zeros, 2:4, 4:8", shares[0], shares[-1]
    words = language_models.perplexity()
    ahead = [
        one for one in language_models.LEVELS.values() if words["SAFE", one] < words["ALPS", one]
    ]
    yield "SAFE as published is behind ALPS except at {} %", *(percent(one) for one in ahead)
    images = pilot.pilot_small()
    at = ["90 %", "95 %", "98 %"]
    yield (
        "on digits and at {} % on CIFAR images; there STR leads at {} % and LASSO at {} %",
        *(*won(images, "PILoT + LRR", at), *won(images, "STR", at), *won(images, "LASSO", at)),
    )
