"""Accuracy, or of detectors mean precision, on corrupted images against sparsity."""

from __future__ import annotations

from collections.abc import Sequence

from steppe.report.axes import panels
from steppe.report.figures import FIGURES, Drawing
from steppe.report.quality import share_among
from steppe.report.record import Record
from steppe.report.svg import Figure
from steppe.report.table import Rows


@FIGURES.register("corrupted")
class Corrupted(Drawing):
    """A panel per severity."""

    section, place = "robust", 10
    what = "Accuracy or mean precision on corrupted images"
    needs = "evaluations.corruptions (steppe evaluate RUN --on corruptions)"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        caption = (
            "Higher is better. Means over the kinds of corruption that are not extra; severity 1 "
            "is the weakest, 5 the strongest."
        )
        quality = share_among([column.key for column in rows.columns])
        title = f"{quality.title} on corrupted images"
        return panels(rows, "corrupted", title, caption, "severity {}", quality.name)
