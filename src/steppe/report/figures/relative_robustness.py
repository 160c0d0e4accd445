"""How much of what a network has right is left on corrupted images, over how much was pruned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from steppe.core.text import counted
from steppe.report.axes import band, looks_of
from steppe.report.column import Cell
from steppe.report.corrupted import (
    corrupted_cells,
    corrupted_clean,
    corrupted_quality,
    severities_of,
)
from steppe.report.figures import FIGURES, Drawing
from steppe.report.level import kinds, level_of
from steppe.report.quality import ACCURACY
from steppe.report.record import Record, is_dense, method_of, number
from steppe.report.svg import Figure, canvas, finish, legend
from steppe.report.table import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Place = Callable[[Record], float | None]
"""Where a run stands along x, in %."""


@FIGURES.register("relative_robustness")
class RelativeRobustness(Drawing):
    """R_C = corrupted / clean, a curve per method, as in AdaSAP's Figure 1."""

    section, place = "robust", 24
    what = "Relative robustness"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        having = [r for r in records if relative(r) is not None]
        pruned = [r for r in having if level_of(r) is not None]
        if not pruned:
            return None
        kept = all(_multiply_adds(r) is not None for r in pruned)
        usual = Counter(one.counted for r in pruned if (one := level_of(r))).most_common(1)[0][0]
        every = len(having)
        if not kept:  # what counts different things stands on no common axis
            having = [r for r in having if is_dense(r) or kinds([level_of(r)]) == [usual]]
        place = _multiply_adds if kept else _share
        quality = corrupted_quality(pruned[0]) or ACCURACY
        many = len({kind for r in having for kind in corrupted_cells(r)})
        severities = severities_of(having)
        with canvas("relative_robustness", 3.4) as (figure, (ax,)):
            described = _curves(ax, having, place, rows)
            label = "multiply-adds kept, %" if kept else f"{usual} asked for, %"
            ax.set_xlabel(f"{label} (more is gone to the right)")
            ax.set_ylabel("R_C")
            ax.locator_params(axis="x", nbins=6, steps=[1, 2, 5, 10])
            ax.xaxis.set_major_formatter("{x:g}")
            if kept:
                ax.invert_xaxis()
            legend(figure, ax)
            of = "1 kind" if many == 1 else f"{many} kinds"
            at = "severity" if len(severities) == 1 else "severities"
            caption = (
                f"R_C is the {quality.name} on corrupted images over that on the same images as "
                f"they were: higher is more robust for the same quality. Mean over {of} of "
                f"corruption at {at} {', '.join(severities)}; bars are one standard error over "
                "seeds, dashed: dense. A network that is bad on clean images can have a high R_C."
            )
            if left := every - len(having):
                caption += f" Left out: {counted(left, 'run')} pruned otherwise."
            return finish(figure, "relative_robustness", self.what, caption, described)


def relative(record: Record) -> float | None:
    """R_C over all kinds and severities that were run.

    Example:
        >>> cells = {"fog": {"3": 0.5}, "snow": {"3": 0.25}}
        >>> relative({"evaluations": {"corruptions": {"accuracy": cells, "clean": 0.5}}})
        0.75
    """
    cells, clean = corrupted_cells(record), corrupted_clean(record)
    values = [v for own in cells.values() for v in own.values()]
    return fmean(values) / clean if values and clean else None


def _curves(ax: Axes, having: Sequence[Record], place: Place, rows: Rows) -> str:
    style = looks_of(rows)
    said = []
    for method in dict.fromkeys(method_of(r) for r in having if not is_dense(r)):
        own = [r for r in having if method_of(r) == method]
        levels = {level for r in own if (level := level_of(r)) is not None}
        points = [_point([r for r in own if level_of(r) == one], place) for one in levels]
        points.sort(key=lambda point: point[0], reverse=place is _multiply_adds)
        look = style[method]
        ax.errorbar(
            [x for x, _ in points],
            [cell.mean for _, cell in points],
            yerr=[cell.error or 0.0 for _, cell in points],
            color=look.colour,
            marker=look.marker,
            markersize=5,
            linewidth=1.4,
            capsize=2.5,
            label=look.label,
        )
        at = ", ".join(f"{cell.mean:.3f} at {x:.4g} %" for x, cell in points)
        said.append(f"{look.label}: {at}")
    dense = Cell.of(relative(r) for r in having if is_dense(r))
    band(ax, dense, 1.0, style["dense"])
    if dense is not None:
        said.insert(0, f"dense: {dense.mean:.3f}")
    return f"{'; '.join(said)}."


def _point(runs: Sequence[Record], place: Place) -> tuple[float, Cell]:
    """One method at one level: where it stands, and its mean over seeds."""
    cell = Cell.of(map(relative, runs))
    assert cell is not None, "only runs that have one are drawn"
    return fmean(x for r in runs if (x := place(r)) is not None), cell


def _share(record: Record) -> float | None:
    own = level_of(record)
    return None if own is None else 100 * own.share


def _multiply_adds(record: Record) -> float | None:
    before, after = number(record, "dense.flops"), number(record, "sparse.flops")
    return 100 * after / before if before and after is not None else None
