"""Language models: swaps after one-shot solvers, and budgets by layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..cells import Cell, Table, cell
from ..registry import Cited, Claim, Rule, claims, table
from ..sources import record

PAGE, SECTION = "docs/results.md", "Language models: swaps and budgets by layer"


def runs() -> dict[str, dict[str, Any]]:
    """Name -> run."""
    return {run["name"]: run for run in record("llm-swaps")["runs"]}


@table("llm-swaps")
def swaps() -> Table:
    rows: list[list[str | Cell]] = []
    for name, run in runs().items():
        chosen, test = (
            cell("{:.2f}", run[key]) if key in run else "not run"
            for key in ("chosen_by", "perplexity")
        )
        rows.append([name, cell("{:.4f}", run["error"]), chosen, test])
    return Table(["run", "error of the layers", "last tenth of validation", "test"], rows)


@claims(PAGE, SECTION)
def set_up() -> Iterator[Claim]:
    windows = Rule("benchmarks/llm/swaps_and_budgets.py", "default=128")
    yield "128 windows of 256 tokens of WikiText-2 validation, seed 0", windows
    yield "perplexity in windows of {}, nothing", record("llm-swaps")["window"]
    yield "`tiny-llama` (six blocks of 256)", Cited("tiny-llama's config.json")
    yield "at {} % zeros, calibrated", 100 * runs()["wanda"]["sparsity"]


@claims(PAGE, SECTION)
def verdict() -> Iterator[Claim]:
    wanda, refined = runs()["wanda"], runs()["wanda swaps"]
    ratios = [refined["errors"][n] / wanda["errors"][n] for n in wanda["errors"]]
    yield "is {} % lower", 100 * (1 - refined["error"] / wanda["error"])
    yield "in {} of {} layers", sum(r < 0.6 for r in ratios), len(ratios)
    yield "of one layer by {} to {} %", 100 * (1 - max(ratios)), 100 * (1 - min(ratios))
