"""How fast and how small."""

from __future__ import annotations

from collections.abc import Sequence

from steppe.report.axes import describe, draw_lines, level_axis, levels_of, sparse_rows
from steppe.report.figures import FIGURES, Drawing
from steppe.report.record import Record
from steppe.report.svg import Figure, canvas, finish, legend
from steppe.report.table import Rows

_SHOWN = {
    "latency": ("latency of one input, ms", 1.0),
    "packed": ("size, zeros as a bit mask, kB", 1e-3),
}


@FIGURES.register("cost")
class Cost(Drawing):
    """Latency and size against sparsity, dense as a dashed band."""

    section, place = "gain", 10
    what = "Latency and size"
    needs = "sparse.latency_ms or sparse.bytes_packed"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        keys = [key for key in _SHOWN if rows.has(key) and sparse_rows(rows, key)]
        if not keys:
            return None
        levels = levels_of(sparse_rows(rows, *keys))
        with canvas("cost", 0.9 + 2.1 * len(keys), len(keys)) as (figure, axes):
            for i, (ax, key) in enumerate(zip(axes, keys, strict=True)):
                label, scale = _SHOWN[key]
                draw_lines(ax, rows, key, scale, levels)
                level_axis(ax, levels, i + 1 == len(keys))
                ax.set_title(label, loc="left", fontsize=9.5)
                ax.set_ylim(0, 1.06 * ax.get_ylim()[1])
            legend(figure, axes[0])
            caption = "Lower is better; dashed: dense."
            if "latency" in keys:
                caption += (
                    " Measured in dense kernels on the machine that trained: zeros alone make "
                    "nothing faster there."
                )
            described = " ".join(describe(rows, key) for key in keys)
            return finish(figure, "cost", self.what, caption, described)
