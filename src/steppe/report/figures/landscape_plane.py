"""The loss over two directions."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from typing import Any

from steppe.report.figures import FIGURES, Drawing
from steppe.report.level import at, highest, level_of
from steppe.report.record import Record, displays, find, is_dense, method_of
from steppe.report.svg import Figure, canvas, finish, looks, wrapped
from steppe.report.table import Rows

MOST = 6  # planes; more would be too small to read


@FIGURES.register("landscape_plane")
class LandscapePlane(Drawing):
    """A map per method, of its first seed, all on one scale."""

    section, place = "flatness", 40
    what = "The loss over two directions"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        having = [r for r in records if find(r, "evaluations.landscape.plane")]
        where = highest(having)
        first: dict[str, Any] = {}
        for record in having:
            if is_dense(record) or level_of(record) == where:
                first.setdefault(method_of(record), find(record, "evaluations.landscape"))
        if not first:
            return None
        first = dict(list(first.items())[:MOST])
        values = [v for surface in first.values() for row in surface["plane"] for v in row if v]
        # the floor of the scale: differences between losses next to nothing are not drawn
        low, high = max(min(values), max(values) / 1e4), max(values)
        steps = (
            [low * (high / low) ** (i / 12) for i in range(13)] if high > low else [low, 2 * low]
        )
        style, across = looks(displays(having)), 2 if len(first) > 1 else 1
        down = -(-len(first) // across)
        height = 0.9 + (2.3 if across == 2 else 3.4) * down
        with canvas("landscape_plane", height, down, across) as (figure, axes):
            for ax in axes[len(first) :]:
                ax.set_axis_off()
            parts = []
            for ax, (method, surface) in zip(axes, first.items(), strict=False):
                grid = [
                    [min(max(v, low), high) if v else high for v in r] for r in surface["plane"]
                ]
                sides = surface["sides"]
                drawn = ax.contourf(
                    sides, sides, [[log10(v) for v in row] for row in grid],
                    levels=[log10(s) for s in steps], cmap="cividis", extend="both",
                )  # fmt: skip
                ax.plot(0, 0, marker="+", color="white", markersize=8)
                ax.set_title(wrapped(style[method].label, 60 // across), loc="left", fontsize=9.5)
                ax.set_aspect("equal")
                middle, corner = (
                    surface["plane"][len(sides) // 2][len(sides) // 2],
                    surface["plane"][0][0],
                )
                parts.append(f"{style[method].label}: {_said(middle)}, {_said(corner)}")
            figure.colorbar(
                drawn, ax=axes, location="bottom", aspect=40, label="training loss (log scale)",
                format=lambda value, _: f"{10**value:.3g}",
            )  # fmt: skip
            caption = (
                "Dark is a low loss: a wide dark basin is flat. Two random directions, every "
                "filter by its own length; the cross is the trained network, of the first "
                "seed. All one colour: wrong everywhere."
            )
            described = f"Loss in the middle and at a corner. {'; '.join(parts)}."
            return finish(figure, "landscape_plane", f"{self.what}{at(where)}", caption, described)


def _said(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.4g}"
