"""Accuracy under attack against the radius."""

from __future__ import annotations

from collections.abc import Sequence

from steppe.report.axes import looks_of
from steppe.report.column import Cell, ball, radius
from steppe.report.figures import FIGURES, Drawing
from steppe.report.level import at, highest, level_of
from steppe.report.quality import ACCURACY
from steppe.report.record import (
    Record,
    find,
    is_dense,
    method_of,
    number,
    radii_of,
    robust_accuracy,
)
from steppe.report.svg import Figure, canvas, finish, legend
from steppe.report.table import Rows

CLEAN = "0"


@FIGURES.register("attacked")
class Attacked(Drawing):
    """A panel per norm, a line per method from the clean accuracy on."""

    section, place = "robust", 40
    what = "Accuracy under attack"
    of = (ACCURACY,)
    needs = "evaluations.attacks (steppe evaluate RUN --on attacks)"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        having = [r for r in records if isinstance(find(r, "evaluations.attacks"), dict)]
        where = highest(having)
        having = [r for r in having if is_dense(r) or level_of(r) == where]
        radii = radii_of(having)
        if not radii:
            return None
        style = looks_of(rows)
        norms = list(dict.fromkeys(norm for norm, _ in radii))
        parts = []
        with canvas("attacked", 0.9 + 2.0 * len(norms), len(norms)) as (figure, axes):
            for ax, norm in zip(axes, norms, strict=True):
                places = [CLEAN, *(eps for n, eps in radii if n == norm)]
                for method in dict.fromkeys(map(method_of, having)):
                    own = [r for r in having if method_of(r) == method]
                    cells = [Cell.of(_under(r, norm, eps) for r in own) for eps in places]
                    points = [
                        (i, c, eps)
                        for i, (eps, c) in enumerate(zip(places, cells, strict=True))
                        if c is not None
                    ]
                    look = style[method]
                    ax.errorbar(
                        [x for x, _, _ in points],
                        [100 * c.mean for _, c, _ in points],
                        yerr=[100 * (c.error or 0.0) for _, c, _ in points],
                        color=look.colour,
                        linestyle="--" if method == "dense" else "-",
                        marker=look.marker,
                        markersize=5,
                        linewidth=1.4,
                        capsize=2.5,
                        clip_on=False,
                        label=look.label,
                    )
                    parts += [f"{look.label}, {ball(norm, e)}: {c.mean:.1%}" for _, c, e in points]
                ax.set_xticks(range(len(places)), ["none", *map(radius, places[1:])])
                ax.set_xlabel(
                    f"radius, {ball(norm, CLEAN).split()[0]}, of pixels in [0, 1] (evenly spaced)"
                )
                ax.set_ylabel("accuracy, %")
                ax.set_ylim(0, 100)
            legend(figure, *axes)
            caption = (
                "Higher is better. Each image is changed, within the radius, to raise the loss; "
                "left: unchanged images. Bars are one standard error over seeds; dashed: dense."
            )
            described = f"{'; '.join(parts)}."
            return finish(figure, "attacked", f"{self.what}{at(where)}", caption, described)


def _under(record: Record, norm: str, eps: str) -> float | None:
    if eps == CLEAN:
        return number(record, "evaluations.attacks.clean")
    return robust_accuracy(record, norm, eps)
