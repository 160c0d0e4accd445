"""How far one method is ahead of others on each kind of corruption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from steppe.report.axes import looks_of
from steppe.report.column import Cell
from steppe.report.corrupted import corrupted_cells, corrupted_clean, corrupted_quality
from steppe.report.figures import FIGURES, Drawing
from steppe.report.level import at, highest, level_of
from steppe.report.quality import ACCURACY
from steppe.report.record import Record, is_dense, method_of
from steppe.report.svg import INK, Figure, Look, canvas, finish, wrapped
from steppe.report.table import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 3
"""Methods that the first is laid beside: more are in the table."""
_CLEAN = "not corrupted"
Runs = Mapping[str, list[Record]]
"""Method -> its runs."""


@FIGURES.register("corruption_difference")
class CorruptionDifference(Drawing):
    """A bar for each kind, as in AdaSAP's Figure 5; a panel for each other method.

    The first method is the one that is best over all kinds at the sparsity that most share. With
    one method alone the dense network is the other.
    """

    section, place = "robust", 22
    what = "Two methods, corruption by corruption"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        having = [r for r in records if corrupted_cells(r)]
        where = highest(having)
        runs = _runs([r for r in having if is_dense(r) or level_of(r) == where])
        pruned = [m for m in runs if m != "dense"]
        if len(runs) < 2 or not pruned:
            return None
        first = max(pruned, key=lambda m: fmean(map(_mean, runs[m])))
        others = [m for m in pruned if m != first][:MOST] or ["dense"]
        style = looks_of(rows)
        kinds = [_CLEAN, *dict.fromkeys(k for r in runs[first] for k in corrupted_cells(r))]
        quality = corrupted_quality(runs[first][0]) or ACCURACY
        described = []
        letters = 40 // len(others)
        tall = max(wrapped(style[m].label, letters).count("\n") for m in (first, *others))
        height = 1.1 + 0.2 * len(kinds) + 0.3 * tall
        with canvas("corruption_difference", height, 1, len(others)) as (
            figure,
            axes,
        ):
            for ax, other in zip(axes, others, strict=True):
                bars = {k: _difference(runs[first], runs[other], k) for k in kinds}
                _bars(ax, bars, style[first], style[other], letters)
                ax.set_yticks(range(len(kinds)), _names(kinds) if ax is axes[0] else [])
                described.append(_said(bars, style[first].label, style[other].label))
            figure.supxlabel(f"difference in {quality.name}, points", fontsize=9.5)
            caption = (
                f"Bars to the right: {style[first].label} is better. Means over seeds and the "
                "severities that were measured, of the same images; whiskers: one standard error "
                "over the seeds that both have. Each panel has its own scale."
            )
            if len(pruned) - 1 > MOST:
                caption += f" {MOST} of {len(pruned) - 1} other methods are drawn."
            title = f"{style[first].label} beside others, by corruption{at(where)}"
            if len(others) == 1:
                beside = style[others[0]].label
                title = f"{style[first].label} beside {beside}, by corruption{at(where)}"
            return finish(figure, "corruption_difference", title, caption, " ".join(described))


def _runs(records: Sequence[Record]) -> Runs:
    runs: dict[str, list[Record]] = {}
    for record in records:
        runs.setdefault(method_of(record), []).append(record)
    return runs


def _mean(record: Record) -> float:
    return fmean(v for cells in corrupted_cells(record).values() for v in cells.values())


def _of_kind(record: Record, kind: str) -> float | None:
    """The mean over severities."""
    if kind == _CLEAN:
        return corrupted_clean(record)
    cells = corrupted_cells(record).get(kind)
    return fmean(cells.values()) if cells else None


def _difference(first: Sequence[Record], other: Sequence[Record], kind: str) -> Cell | None:
    """Of the seeds that both have, one by one; where they share none, of the means."""
    own, theirs = (
        {str(r.get("seed")): v for r in runs if (v := _of_kind(r, kind)) is not None}
        for runs in (first, other)
    )
    both = [own[seed] - theirs[seed] for seed in own if seed in theirs]
    if both or not (own and theirs):
        return Cell.of(both)
    return Cell(fmean(own.values()) - fmean(theirs.values()), None, 1)


def _bars(
    ax: Axes, bars: Mapping[str, Cell | None], first: Look, other: Look, letters: int
) -> None:
    for place, cell in enumerate(bars.values()):
        if cell is None:
            continue
        ahead = first if cell.mean >= 0 else other
        ax.barh(
            place,
            100 * cell.mean,
            0.75,
            xerr=None if cell.error is None else 100 * cell.error,
            error_kw={"ecolor": INK, "linewidth": 1.0, "capsize": 2},
            color=ahead.colour,
            alpha=0.45 if ahead.colour == INK else 1.0,
            hatch=ahead.hatch,
            edgecolor=INK,
            linewidth=0.5,
        )
    ax.axvline(0.0, color=INK, linewidth=0.8)
    ax.axhline(0.5, color=INK, linewidth=0.5, linestyle=":")
    ax.set_ylim(len(bars) - 0.5, -0.5)
    ax.grid(False, axis="y")
    ax.tick_params("y", length=0)
    title = f"{wrapped(first.label, letters)}\n{wrapped(f'− {other.label}', letters)}"
    ax.set_title(title, loc="left", fontsize=9 if len(first.label + other.label) < 40 else 7.5)


def _names(kinds: Sequence[str]) -> list[str]:
    return [kind.replace("_", " ") for kind in kinds]


def _said(bars: Mapping[str, Cell | None], first: str, other: str) -> str:
    parts = [
        f"{kind.replace('_', ' ')} {100 * cell.mean:+.1f}"
        for kind, cell in bars.items()
        if cell is not None
    ]
    return f"{first} minus {other}, points: {', '.join(parts)}."
