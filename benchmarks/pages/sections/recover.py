"""Recovered language models: before, after, and what is regained."""

from __future__ import annotations

from ..cells import Cell, Table, cell
from ..registry import table
from ..sources import record

PAGE, SECTION = "docs/recover.md", "What it regains"

PRUNINGS = {"alps": "ALPS", "wanda": "Wanda"}
LEVELS = {"70": "70 %", "24": "2:4"}


@table("llm-recover")
def recovered() -> Table:
    dense = record("llm-table")["dense"]
    rows: list[list[str | Cell]] = []
    for name, run in record("recover")["runs"].items():
        pruning, level, *trained = name.split("-")
        shares = (run["pruned"] - run["recovered"]) / (run["pruned"] - dense)
        rows.append(
            [
                f"{PRUNINGS[pruning]}, {LEVELS[level]}",
                trained[0] if trained else "weights",
                cell("{:.2f}", run["pruned"]),
                cell("{:.2f}", run["recovered"]),
                cell("{:.0f} %", 100 * shares),
            ]
        )
    return Table(["pruned by", "trained", "pruned", "recovered", "of the gap regained"], rows)
