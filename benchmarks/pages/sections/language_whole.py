"""Language models trained as a whole, beside block by block, at equal tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..cells import Cell, Table, cell, half_range
from ..registry import Claim, claims, table
from ..sources import record

PAGE, SECTION = "docs/results.md", "Language models: trained as a whole"
SHOWN = {
    "dense": "dense, trained further",
    "wanda": "Wanda",
    "alps": "ALPS",
    "best": "best block setting",
    "elsa": "ELSA",
    "elsa_v": "ELSA, by the second moment",
    "none": "SAFE without perturbation",
    "safe": "SAFE",
    "functional": "SAFE, functional SAM",
    "gmp": "GMP",
    "wanda_tuned": "Wanda, then tuned",
    "alps_tuned": "ALPS, then tuned",
}
STEPS, LEVELS = 1024, (70, 80, 90, 95)


def found(name: str, level: int, steps: int | None = STEPS) -> list[dict[str, Any]]:
    """The runs of a setting, one for each seed; a dense one has no level, a pruning no steps."""
    return [
        run
        for run in record("whole-study")["runs"]
        if run["name"] == name
        and run["steps"] in (steps, None)
        and (name == "dense" or abs(100 * run["asked"] - level) < 1e-6)
    ]


def mean(name: str, level: int, steps: int | None = STEPS) -> float:
    """Perplexity, over the seeds."""
    values = [run["perplexity"] for run in found(name, level, steps)]
    return sum(values) / len(values)


def _perplexity(runs: list[dict[str, Any]]) -> str | Cell:
    return half_range([run["perplexity"] for run in runs], 2) if runs else "not run"


@table("llm-whole")
def levels() -> Table:
    rows: list[list[str | Cell]] = []
    for name, shown in SHOWN.items():
        own = [found(name, level) for level in LEVELS]
        if any(own):
            rows.append([shown, *map(_perplexity, own)])
    return Table(["", *(f"{level} %" for level in LEVELS)], rows)


@table("llm-whole-cost")
def cost() -> Table:
    rows: list[list[str | Cell]] = []
    for name, shown in SHOWN.items():
        runs = found(name, 90)
        if runs:
            minutes = [run["seconds"] / 60 for run in runs]
            memory = max(run["peak_memory_gib"] for run in runs)
            rows.append([shown, cell("{:.1f}", min(minutes)), cell("{:.2f}", memory)])
    return Table(["90 %", "minutes", "peak, GiB"], rows)


@table("llm-whole-long")
def long() -> Table:
    rows: list[list[str | Cell]] = []
    for name, shown in SHOWN.items():
        if any(run["steps"] == 4096 for run in found(name, 90, 4096)):
            rows.append([shown, *(_perplexity(found(name, 90, steps)) for steps in (STEPS, 4096))])
    return Table(["90 %", "1,024 steps", "4,096 steps"], rows)


@claims(PAGE, SECTION)
def set_up() -> Iterator[Claim]:
    own = record("whole-study")
    yield "The model before: {}", own["dense"]
    yield "windows of {} tokens", own["settings"]["window"]
