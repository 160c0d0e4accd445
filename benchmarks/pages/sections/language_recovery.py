"""Language models: what `steppe recover` gives back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..cells import Cell, Table, cell
from ..registry import Claim, Rule, claims, table
from ..sources import record

PAGE, SECTION = "docs/results.md", "Language models: recovered"
PRUNED = {"alps-70": "ALPS, 70 %", "alps-24": "ALPS, 2:4", "wanda-70": "Wanda, 70 %"}
PRUNED |= {"wanda-24": "Wanda, 2:4"}
HOW = {"": "blocks", "-long": "blocks, three passes", "-norms": "blocks, norms alone"}
HOW |= {"-whole": "the whole model"}


def runs() -> dict[str, dict[str, Any]]:
    """Name -> recovery."""
    return record("recover")["runs"]


def regained(run: dict[str, Any]) -> float:
    """Percent of the way from the pruned to the dense model's perplexity."""
    gap = run["pruned"] - record("recover")["dense"]
    return 100 * (run["pruned"] - run["recovered"]) / gap


@table("llm-recovery")
def recovery() -> Table:
    rows: list[list[str | Cell]] = []
    for pruning, shown in PRUNED.items():
        for suffix, how in HOW.items():
            run = runs().get(pruning + suffix)
            if run is not None:
                perplexities = [cell("{:.2f}", run[key]) for key in ("pruned", "recovered")]
                rows.append([shown, how, *perplexities, cell("{:.0f} %", regained(run))])
    return Table(["pruned by", "recovered as", "pruned", "recovered", "regained"], rows)


@claims(PAGE, SECTION)
def set_up() -> Iterator[Claim]:
    own = record("recover")
    yield "Dense: {}", own["dense"]
    yield "windows of {} tokens of WikiText-2 validation", own["window"]
    most = Rule("benchmarks/llm/recover.yaml", "--samples 1024 --epochs 1")
    yield "Of {} windows those", most
    norms = Rule("benchmarks/llm/recover.yaml", "--train norms --samples 512 --epochs 1")
    yield "once, of {} where norms", norms
    yield "from ALPS at {} %; nothing", 100 * runs()["alps-70-whole"]["sparsity_reached"]
    yield "pruned with {} windows", Rule("src/steppe/llm/prune_config.py", "128")
