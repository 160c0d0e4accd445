"""Accuracy under noise."""

from __future__ import annotations

from collections.abc import Sequence

from steppe.report.axes import panels
from steppe.report.figures import FIGURES, Drawing
from steppe.report.quality import ACCURACY
from steppe.report.record import Record
from steppe.report.svg import Figure
from steppe.report.table import Rows


@FIGURES.register("noise")
class Noise(Drawing):
    """A panel per strength."""

    section, place = "robust", 30
    what = "Accuracy under noise"
    of = (ACCURACY,)
    needs = "noise"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        caption = (
            "Higher is better. Gaussian noise of standard deviation σ on pixels in [0, 1]; each "
            "panel has its own scale."
        )
        return panels(rows, "noise", self.what, caption, "noise σ = {}")
