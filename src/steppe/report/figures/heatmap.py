"""Accuracy, or of detectors mean precision, for each corruption at each severity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steppe.report.axes import heat, mean_of, scale_bar
from steppe.report.corrupted import corrupted_cells, corrupted_quality, severities_of
from steppe.report.figures import FIGURES, Drawing
from steppe.report.level import at, highest, level_of
from steppe.report.quality import ACCURACY
from steppe.report.record import Record, displays, is_dense, method_of
from steppe.report.svg import Figure, canvas, finish, looks, wrapped
from steppe.report.table import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@FIGURES.register("heatmap")
class Heatmap(Drawing):
    """A row per corruption, a column per method and severity."""

    section, place = "robust", 20
    what = "Corruption by corruption"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        having = [r for r in records if corrupted_cells(r)]
        where = highest(having)
        having = [r for r in having if is_dense(r) or level_of(r) == where]
        if not having:
            return None
        quality = corrupted_quality(having[0]) or ACCURACY
        names = list(dict.fromkeys(name for r in having for name in corrupted_cells(r)))
        methods = list(dict.fromkeys(map(method_of, having)))
        columns = [(m, s) for m in methods for s in severities_of(having)]

        def cell(name: str, method: str, severity: str) -> float | None:
            return mean_of(
                [
                    corrupted_cells(r).get(name, {}).get(severity)
                    for r in having
                    if method_of(r) == method
                ]
            )

        grid = [[cell(name, m, s) for m, s in columns] for name in names]
        style = looks(displays(having))
        described = "; ".join(
            f"{style[m].label} at severity {s}: "
            + ", ".join(
                f"{n.replace('_', ' ')} {100 * v:.0f} %"
                for n, row in zip(names, grid, strict=True)
                if (v := row[i]) is not None
            )
            for i, (m, s) in enumerate(columns)
        )
        size = 9.5 if len(methods) < 4 else 7.0
        heads = {m: wrapped(style[m].label, int(400 / size / len(methods))) for m in methods}
        lines = max(head.count("\n") for head in heads.values())
        with canvas("heatmap", 1.2 + 0.2 * len(names) + 0.13 * lines) as (figure, (ax,)):
            text = len(columns) <= 20
            mesh = heat(ax, grid, text, digits=0, size=8 if len(columns) <= 10 else 6)
            if not text:
                scale_bar(figure, mesh, ax, "bottom", f"{quality.name}, %")
            middles = [i + 0.5 for i in range(len(columns))]
            ax.set_xticks(middles, [s for _, s in columns], fontsize=8)
            ax.set_yticks(
                [i + 0.5 for i in range(len(names))], [n.replace("_", " ") for n in names]
            )
            _name_methods(ax, list(heads.values()), size)
            caption = (
                f"{quality.title} in %, mean over seeds; the small numbers above are severities. "
                "Yellow is better, blue is worse."
            )
            return finish(figure, "heatmap", f"{self.what}{at(where)}", caption, f"{described}.")


def _name_methods(ax: Axes, heads: Sequence[str], size: float) -> None:
    """Names above the severities, each in the middle of its own; white between two."""
    across = ax.get_xlim()[1] / len(heads)
    for i, head in enumerate(heads):
        ax.annotate(
            head,
            ((i + 0.5) / len(heads), 1.0),
            xytext=(0, 18),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            fontsize=size,
        )
        if i:
            ax.axvline(i * across, color="white", linewidth=3)
