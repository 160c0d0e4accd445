"""The largest rise of the loss in a ball around the weights."""

from __future__ import annotations

from collections.abc import Sequence

from steppe.report.axes import draw_bars
from steppe.report.figures import FIGURES, Drawing
from steppe.report.quality import ACCURACY
from steppe.report.record import Record, first
from steppe.report.svg import Figure
from steppe.report.table import Rows

RADIUS = ("evaluations.sharpness.radius", "flatness.rho")


@FIGURES.register("sharpness")
class Sharpness(Drawing):
    """Bars per method, grouped by sparsity."""

    section, place = "flatness", 20
    what = "Sharpness"
    of = (ACCURACY,)
    needs = "flatness.sharpness"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        rho = sorted({r for x in records if (r := first(x, *RADIUS)) is not None})
        radius = f" = {', '.join(f'{r:g}' for r in rho)}" if rho else ""
        caption = (
            "Lower is flatter: the most that the loss rises as the weights move by at most "
            f"ρ{radius}. Bars are means, lines one standard error over seeds; dashed: dense."
        )
        return draw_bars(rows, "sharpness", "Sharpness", "rise of the loss", caption, False)
