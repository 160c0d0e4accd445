"""Language models: what `steppe recover` gives back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..cells import Cell, Table, cell
from ..registry import Cited, Claim, Rule, claims, table
from ..sources import record

PAGE, SECTION = "docs/results.md", "Language models: recovery"


def runs() -> dict[str, dict[str, Any]]:
    """Name -> run."""
    found: dict[str, dict[str, Any]] = record("recover")["runs"]
    return found


def dense() -> float:
    """Perplexity of the dense model."""
    return float(record("recover")["dense"])


@table("llm-recover")
def recovered() -> Table:
    rows: list[list[str | Cell]] = []
    for name, run in runs().items():
        gap = run["pruned"] - dense()
        regained = 100 * (run["pruned"] - run["recovered"]) / gap
        figures = cell("{:.2f}", run["pruned"]), cell("{:.2f}", run["recovered"])
        rows.append([name, *figures, cell("{:.0f} %", regained)])
    return Table(["run", "pruned", "recovered", "of the gap"], rows)


@claims(PAGE, SECTION)
def set_up() -> Iterator[Claim]:
    yield "`tiny-llama` (six blocks of 256)", Cited("tiny-llama's config.json")
    yield "in windows of {}; dense: {}", record("recover")["window"], dense()
    yield "{} windows of", Rule("benchmarks/llm/recover.yaml", "--samples 1024 --epochs 1")
