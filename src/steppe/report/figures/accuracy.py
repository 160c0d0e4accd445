"""Accuracy, or of detectors mean precision, against sparsity."""

from __future__ import annotations

from collections.abc import Sequence

from steppe.report.axes import SPACED, describe, draw_lines, level_axis, levels_of, sparse_rows
from steppe.report.figures import FIGURES, Drawing
from steppe.report.level import ZEROS, kinds
from steppe.report.quality import share_among
from steppe.report.record import Record
from steppe.report.svg import Figure, canvas, finish, legend
from steppe.report.table import Rows


def _close_up(rows: Rows, key: str) -> tuple[float, float] | None:
    """Limits, in %, of those within 6 points of the best, when one far below squeezes them."""
    means = [100 * c.mean for r in rows.rows if (c := r.cells[key]) is not None]
    near = [m for m in means if m >= max(means) - 6.0]
    if max(means) - min(means) < 12.0 or len(near) < 3:
        return None
    return min(near) - 0.5, min(100.0, max(near) + 0.5)


@FIGURES.register("accuracy")
class Accuracy(Drawing):
    """A line per method, dense as a dashed band."""

    section, place = "quality", 10
    what = "Accuracy or mean precision against sparsity"
    needs = "sparse.accuracy or sparse.map50"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        quality = share_among([column.key for column in rows.columns])
        sparse = sparse_rows(rows, quality.key)
        if not sparse:
            return None
        levels = levels_of(sparse)
        close = _close_up(rows, quality.key)
        with canvas("accuracy", 6.0 if close else 3.5, 2 if close else 1) as (figure, axes):
            for ax in axes:
                draw_lines(ax, rows, quality.key, 100, levels)
                level_axis(ax, levels, ax is axes[-1])
                ax.set_ylabel(f"{quality.name}, %")
            if close:
                axes[0].set_title("all", loc="left", fontsize=9.5)
                axes[1].set_title("the best, closer", loc="left", fontsize=9.5)
                axes[1].set_ylim(*close)
            legend(figure, *axes)
            caption = (
                "Higher is better. Bars are one standard error over seeds; the dashed band is the "
                f"dense network. {SPACED}"
            )
            zeros = kinds(levels) == [ZEROS]
            title = f"{quality.title} against {'sparsity' if zeros else 'what is gone'}"
            return finish(figure, "accuracy", title, caption, describe(rows, quality.key))
