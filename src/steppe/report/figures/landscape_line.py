"""The loss along one direction."""

from __future__ import annotations

from collections.abc import Sequence

from steppe.report.axes import looks_of, mean_of
from steppe.report.figures import FIGURES, Drawing
from steppe.report.level import at, highest, level_of
from steppe.report.quality import ACCURACY
from steppe.report.record import Record, find, is_dense, method_of
from steppe.report.svg import Figure, canvas, finish, legend
from steppe.report.table import Rows


@FIGURES.register("landscape_line")
class LandscapeLine(Drawing):
    """A line per method, mean over seeds."""

    section, place = "flatness", 30
    what = "The loss along one direction"
    of = (ACCURACY,)
    needs = "evaluations.landscape (steppe evaluate RUN --on landscape)"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        having = [r for r in records if find(r, "evaluations.landscape.line")]
        where = highest(having)
        having = [r for r in having if is_dense(r) or level_of(r) == where]
        if not having:
            return None
        # directions are drawn on one axis only when they are equally long
        places = find(having[0], "evaluations.landscape.places")
        having = [r for r in having if find(r, "evaluations.landscape.places") == places]
        style = looks_of(rows)
        with canvas("landscape_line", 3.5) as (figure, (ax,)):
            parts, tops = [], []
            for method in dict.fromkeys(map(method_of, having)):
                surfaces = [
                    find(r, "evaluations.landscape.line") for r in having if method_of(r) == method
                ]
                line = [mean_of(values) for values in zip(*map(_rise, surfaces), strict=True)]
                look = style[method]
                ax.plot(
                    places,
                    [float("nan") if v is None else v for v in line],
                    color=look.colour,
                    linestyle="--" if method == "dense" else "-",
                    marker=look.marker,
                    markersize=4,
                    markevery=max(1, len(line) // 7),
                    linewidth=1.3,
                    label=look.label,
                )
                tops.append(max(v for v in line if v is not None))
                shown = [line[i] for i in (0, len(line) // 2, -1)]
                parts.append(
                    f"{look.label}: "
                    + ", ".join("infinite" if v is None else f"{v:.4g}" for v in shown)
                )
            # the steepest would hide how the flat ones differ
            ax.set_ylim(0, min(max(tops), 4 * min(tops)) * 1.05 or None)
            ax.set_xlabel("distance from the trained weights, in lengths of the filters")
            ax.set_ylabel("rise of the training loss")
            legend(figure, ax)
            caption = (
                "A wide valley is flat; what rises out of the picture is cut off. Every filter "
                "moves along a random direction by its own length times the distance. A network "
                "that is wrong everywhere is flat too: read it beside the accuracy."
            )
            described = (
                f"Rise of the loss at the left end, the middle, the right end. {'; '.join(parts)}."
            )
            return finish(figure, "landscape_line", f"{self.what}{at(where)}", caption, described)


def _rise(line: Sequence[float | None]) -> list[float | None]:
    """The loss above that of the trained network, in the middle."""
    middle = line[len(line) // 2]
    return [None if v is None or middle is None else v - middle for v in line]
