"""Accuracy on corrupted images against sparsity."""

from __future__ import annotations

from collections.abc import Sequence

from steppe.report.axes import panels
from steppe.report.figures import FIGURES, Drawing
from steppe.report.record import Record
from steppe.report.svg import Figure
from steppe.report.table import Rows


@FIGURES.register("corrupted")
class Corrupted(Drawing):
    """A panel per severity."""

    section, place = "robust", 10
    what = "Accuracy on corrupted images"
    needs = "evaluations.corruptions (steppe evaluate RUN --on corruptions)"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        caption = (
            "Higher is better. Means over the kinds of corruption that are not extra; severity 1 "
            "is the weakest, 5 the strongest."
        )
        return panels(rows, "corrupted", self.what, caption, "severity {}")
