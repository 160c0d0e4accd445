"""Training curves."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from steppe.report.axes import looks_of
from steppe.report.figures import FIGURES, Drawing
from steppe.report.level import at, highest, level_of
from steppe.report.quality import QUALITIES
from steppe.report.record import Record, curve_of, is_dense, method_of, number
from steppe.report.svg import Figure, canvas, finish, legend, log_scale
from steppe.report.table import Rows

_CURVES = (
    ("training loss", ("train_loss", "loss"), 1.0),
    *((f"{q.name} while training, %", (q.key,), 100.0) for q in QUALITIES if q.share),
)


def _series(records: Sequence[Record], keys: Sequence[str]) -> dict[float, float]:
    """Epoch -> mean over seeds of the first of the keys that a row has."""
    by_epoch: dict[float, list[float]] = {}
    for record in records:
        for i, row in enumerate(curve_of(record)):
            value = next((v for key in keys if (v := number(row, key)) is not None), None)
            epoch = number(row, "epoch")
            if value is not None:
                by_epoch.setdefault(i if epoch is None else epoch, []).append(value)
    return {epoch: fmean(values) for epoch, values in sorted(by_epoch.items())}


@FIGURES.register("curves")
class Curves(Drawing):
    """Loss and what is right, a line per method, mean over seeds."""

    section, place = "inside", 20
    what = "Training curves"
    needs = "curve or metrics of several epochs"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        having = [r for r in records if curve_of(r)]
        where = highest(having)
        having = [r for r in having if is_dense(r) or level_of(r) == where]
        methods = list(dict.fromkeys(map(method_of, having)))
        # the order of the rows, so that a method has one colour throughout the page
        style = looks_of(Rows.from_records(records))
        drawn = []
        for label, keys, scale in _CURVES:
            lines = {m: _series([r for r in having if method_of(r) == m], keys) for m in methods}
            if any(len(line) > 1 for line in lines.values()):  # points alone are no curve
                drawn.append((label, {m: line for m, line in lines.items() if line}, scale))
        if not drawn:
            return None
        with canvas("curves", 0.9 + 2.3 * len(drawn), len(drawn)) as (figure, axes):
            parts = []
            for ax, (label, lines, scale) in zip(axes, drawn, strict=True):
                for method, line in lines.items():
                    look = style[method]
                    ax.plot(
                        list(line),
                        [scale * v for v in line.values()],
                        color=look.colour,
                        linestyle="--" if method == "dense" else "-",
                        marker=look.marker or ("o" if len(line) == 1 else ""),
                        markersize=4,
                        markevery=max(1, len(line) // 8),
                        linewidth=1.3,
                        label=look.label,
                    )
                    end = scale * list(line.values())[-1]
                    parts.append(f"{look.label}, {label}: {end:.4g} at the end")
                if scale == 1.0 and all(v > 0 for line in lines.values() for v in line.values()):
                    log_scale(ax)
                ax.set_ylabel(label)
            axes[-1].set_xlabel("epoch")
            legend(figure, *axes)
            caption = (
                "Means over seeds. What a method does to the weights after the last epoch is not "
                "in it."
            )
            return finish(figure, "curves", f"Training{at(where)}", caption, f"{'; '.join(parts)}.")
