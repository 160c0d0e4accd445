"""The steepest curvature of the loss."""

from __future__ import annotations

from collections.abc import Sequence

from steppe.report.axes import draw_bars
from steppe.report.figures import FIGURES, Drawing
from steppe.report.quality import ACCURACY
from steppe.report.record import Record
from steppe.report.svg import Figure
from steppe.report.table import Rows


@FIGURES.register("hessian_top")
class HessianTop(Drawing):
    """Bars on a log scale (linear where one is not positive)."""

    section, place = "flatness", 10
    what = "Top Hessian eigenvalue"
    of = (ACCURACY,)
    needs = "flatness.hessian_top"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        return draw_bars(
            rows,
            "hessian_top",
            "Top Hessian eigenvalue",
            "eigenvalue",
            "Lower is flatter: the steepest curvature of the training loss at the final weights. "
            "Bars are means, lines one standard error over seeds; dashed: dense.",
            True,
        )
