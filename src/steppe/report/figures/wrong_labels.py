"""Accuracy against the share of wrong training labels."""

from __future__ import annotations

from collections.abc import Sequence

from steppe.report.column import Cell
from steppe.report.figures import FIGURES, Drawing
from steppe.report.level import at, highest, level_of
from steppe.report.record import (
    Record,
    displays,
    is_dense,
    method_of,
    number,
    wrong_labels,
)
from steppe.report.svg import Figure, canvas, finish, legend, looks
from steppe.report.table import Rows


@FIGURES.register("wrong_labels")
class WrongLabels(Drawing):
    """A line per method, mean over seeds."""

    section, place = "labels", 10
    what = "Accuracy after training on wrong labels"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        where = highest([r for r in records if wrong_labels(r)])
        having = [r for r in records if is_dense(r) or level_of(r) == where]
        rates = sorted({wrong_labels(r) for r in having})
        if not any(rates):
            return None
        methods = list(dict.fromkeys(method_of(r) for r in having if wrong_labels(r)))
        style, parts = looks({r.method: r.display for r in rows.rows} | displays(having)), []
        with canvas("wrong_labels", 3.4) as (figure, (ax,)):
            for method in methods:
                own = [r for r in having if method_of(r) == method]
                cells = [
                    (rate, cell)
                    for rate in rates
                    if (
                        cell := Cell.of(
                            number(r, "sparse.accuracy") for r in own if wrong_labels(r) == rate
                        )
                    )
                ]
                look = style[method]
                ax.errorbar(
                    [100 * rate for rate, _ in cells],
                    [100 * c.mean for _, c in cells],
                    yerr=[100 * (c.error or 0.0) for _, c in cells],
                    color=look.colour,
                    linestyle="--" if method == "dense" else "-",
                    marker=look.marker,
                    markersize=5,
                    linewidth=1.4,
                    capsize=2.5,
                    label=look.label,
                )
                parts += [f"{look.label}, {r:.0%} wrong: {c.mean:.1%}" for r, c in cells]
            ax.set_xticks([100 * rate for rate in rates], [f"{100 * r:g} %" for r in rates])
            ax.set_xlabel("training labels that were wrong")
            ax.set_ylabel("accuracy, %")
            legend(figure, ax)
            caption = (
                "Higher is better: accuracy on test images, whose labels are right. Bars are one "
                "standard error over seeds."
            )
            title = f"{self.what}{at(where)}"
            return finish(figure, "wrong_labels", title, caption, f"{'; '.join(parts)}.")
