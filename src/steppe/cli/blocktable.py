"""The live table of a model that is pruned block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from steppe.cli.main import say
from steppe.cli.progress_line import ProgressLine
from steppe.engine import ranks
from steppe.engine.blockwise.journal import DONE_BEFORE
from steppe.engine.progress import is_redrawn

Rows = list[dict[str, Any]]
_SHOWN = 14  # rows that are kept on the screen while more come


class BlockTable:
    """One row per layer as it is done; in a log file one line per block.

    Args:
        blocks: how many there are.
        quiet: show nothing.
        said: what a block lost, in words, of the rows of its layers, one or more.
    """

    def __init__(self, blocks: int, quiet: bool, said: Callable[[Rows], str] | None = None) -> None:
        self._said = said or _zeros
        self._blocks, self._quiet = blocks, quiet or not ranks.first()
        self._rows: list[dict[str, Any]] = []
        console = Console(stderr=True)
        live = is_redrawn(console) and not self._quiet
        self._live = Live(console=console, refresh_per_second=4) if live else None
        self._line = ""
        self.advance = ProgressLine(quiet, self._show if live else None)
        """For `steppe.engine.progress.watched`: a line below the table."""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            if self._rows:
                self._live.update(self._table())
            self._live.stop()

    def _show(self, line: str) -> None:
        assert self._live is not None, "the line is drawn on a terminal"
        self._line = line
        self._live.update(self._all())

    def _all(self) -> Group:
        table = [self._table()] if self._rows else []
        return Group(*table, *([self._line] if self._line else []))

    def add(self, row: dict[str, Any]) -> None:
        """Show one block's row of the record; one that was done before is in the table only."""
        self._rows.append(row)
        if self._live is not None:
            self._live.update(self._all())
        elif not self._quiet and not row.get(DONE_BEFORE):
            errors = [x["output_error"] for x in row["layers"] if "output_error" in x]
            worst = f", largest layer error {max(errors):.4f}" if errors else ""
            share = self._said(row["layers"]) if row["layers"] else "dense"
            done = f"block {row['block'] + 1} of {self._blocks}: {share}{worst}"
            say(f"{done}, {row['seconds']['all']:.1f} s")

    def _table(self) -> Table:
        done, spent = len(self._rows), sum(r["seconds"]["all"] for r in self._rows)
        left = spent / done * (self._blocks - done)
        table = Table(
            title=f"block {done} of {self._blocks}, {spent:.0f} s so far, about {left:.0f} s left",
            title_justify="left",
            box=None,
            pad_edge=False,
        )
        for head in ("layer", "asked", "reached", "error", "seconds"):
            table.add_column(head, justify="left" if head == "layer" else "right")
        layers = [x for row in self._rows for x in row["layers"]]
        for x in layers[-_SHOWN:]:
            error = f"{x['output_error']:.4f}" if "output_error" in x else ""
            seconds = f"{x['seconds']:.2f}" if "seconds" in x else ""
            asked, reached = f"{x['sparsity_asked']:.2%}", f"{x['sparsity_reached']:.2%}"
            table.add_row(x["name"], asked, reached, error, seconds)
        return table


def _zeros(layers: Rows) -> str:
    return f"{sum(x['sparsity_reached'] for x in layers) / len(layers):.2%} zeros"
