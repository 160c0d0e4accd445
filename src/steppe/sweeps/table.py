"""The table of a sweep, for a terminal: a row per setting, the best first."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from steppe.experiment.tasks import Quality
from steppe.report.short_table import MARK
from steppe.sweeps.grid import short_names, shown
from steppe.sweeps.picture import column_of
from steppe.sweeps.results import Setting, best_of, ranked

if TYPE_CHECKING:
    from rich.table import Table


def table(settings: Sequence[Setting], quality: Quality) -> Table:
    """A row per setting: what varies, how good it is, zeros, seconds of a run.

    Args:
        settings: of the sweep.
        quality: by which they are compared.
    """
    from rich.table import Table

    column, seeds = column_of(quality), max(len(s.runs) for s in settings)
    best = best_of(settings, quality.higher)
    over = f", mean ± standard error of {seeds} seeds" if seeds > 1 else ""
    made = Table(caption=f"{column.small} on {quality.of}{over}; {MARK} the best", box=None)
    for name in short_names(list(settings[0].values)).values():
        made.add_column(name, justify="right")
    for name in ("", column.small, "zeros", "a run took"):
        made.add_column(name, justify="right")
    for setting in ranked(settings, quality.higher):
        failed = sum(run.state == "failed" for run in setting.runs)
        ended = [run for run in setting.runs if run.state == "done"]
        figure = column.show(setting.cell, len(ended)) if ended else "failed"
        made.add_row(
            *map(shown, setting.values.values()),
            MARK if best is not None and setting.values == best.values else "",
            figure + (f" ({failed} failed)" if failed and ended else ""),
            f"{fmean(run.sparsity or 0.0 for run in ended):.2%}" if ended else "",
            f"{fmean(run.seconds or 0.0 for run in ended):.1f} s" if ended else "",
        )
    return made
