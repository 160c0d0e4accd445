"""How fast and how small."""

from __future__ import annotations

from collections.abc import Sequence

from steppe.report.axes import (
    band,
    describe,
    draw_lines,
    level_axis,
    levels_of,
    looks_of,
    sparse_rows,
)
from steppe.report.column import Cell
from steppe.report.figures import FIGURES, Drawing
from steppe.report.record import Record
from steppe.report.svg import Figure, canvas, finish, legend
from steppe.report.table import Rows
from steppe.report.times import places, time_key, usual_place

MOST = 3
"""Devices, or numbers of threads on one, that have a panel each."""
_SIZE = "packed"


@FIGURES.register("cost")
class Cost(Drawing):
    """Time, as a share of dense in turns, and size against sparsity; dense is dashed."""

    section, place = "gain", 10
    what = "Time and size"
    needs = "speed or sparse.bytes_packed"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        there = [c.key for c in rows.columns if sparse_rows(rows, c.key)]
        # as the table does: where not all were timed in one place, the ends of the runs
        usual = usual_place(records)
        every = [time_key(place) for place in places(records)] if usual else [time_key(None)]
        times = [key for key in every if key in there][:MOST]
        keys = [*times, *(key for key in there if key == _SIZE)]
        if not keys:
            return None
        levels = levels_of(sparse_rows(rows, *keys))
        with canvas("cost", 0.9 + 2.1 * len(keys), len(keys)) as (figure, axes):
            for i, (ax, key) in enumerate(zip(axes, keys, strict=True)):
                draw_lines(ax, rows, key, 1e-3 if key == _SIZE else 1.0, levels)
                label = "size, zeros as a bit mask, kB"
                if key in times:
                    band(ax, Cell(100.0, None, 1), 1.0, looks_of(rows)["dense"])
                    label = next(c.small for c in rows.columns if c.key == key)
                level_axis(ax, levels, i + 1 == len(keys))
                ax.set_title(label, loc="left", fontsize=9.5)
                ax.set_ylim(0, 1.06 * ax.get_ylim()[1])
            legend(figure, *axes)
            caption = "Lower is better; dashed: dense."
            if times:
                by = "by steppe evaluate --on latency" if usual else "when the runs ended"
                caption += (
                    f" Times of one input are shares of the dense network's, in turns with it {by}."
                    " Zeros alone make nothing faster in dense kernels."
                )
            described = " ".join(describe(rows, key) for key in keys)
            return finish(figure, "cost", self.what, caption, described)
