"""Zeros per layer; of networks without their channels, what is left of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steppe.report.axes import heat, mean_of, scale_bar
from steppe.report.figures import FIGURES, Drawing
from steppe.report.level import ZEROS, at, highest, level_of
from steppe.report.record import Record, displays, is_dense, method_of, number
from steppe.report.svg import Figure, canvas, finish, looks, wrapped
from steppe.report.table import Rows


def _fractions(record: Record) -> dict[str, float]:
    """Layer -> fraction of zeros."""
    layers = record.get("layers")
    fractions: dict[str, float] = {}
    for layer in layers if isinstance(layers, list | tuple) else ():
        if not isinstance(layer, Mapping):
            continue
        total, zeros = number(layer, "total"), number(layer, "zeros")
        if total and zeros is not None:
            fractions[str(layer.get("name", len(fractions)))] = zeros / total
    return fractions


@FIGURES.register("layers")
class Layers(Drawing):
    """A column per method, at the highest sparsity that most methods share."""

    section, place = "inside", 10
    what = "Zeros, or what is left, per layer"
    needs = "layers"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        having = [r for r in records if not is_dense(r) and _fractions(r)]
        where = highest(having)
        having = [r for r in having if level_of(r) == where]
        if where is None:
            return None
        names = list(dict.fromkeys(name for r in having for name in _fractions(r)))
        methods = list(dict.fromkeys(map(method_of, having)))
        style = looks(displays(having))
        grid = [
            [
                mean_of([_fractions(r).get(name) for r in having if method_of(r) == m])
                for m in methods
            ]
            for name in names
        ]
        zeros = where.counted == ZEROS
        if not zeros:  # nothing in the network is zero: it is narrower
            grid = [[None if value is None else 1 - value for value in row] for row in grid]
        height = 1.1 + max(0.22 if len(names) <= 40 else 0.12, 1.0 / len(names)) * len(names)
        letters = 30 // len(methods) if len(methods) <= 5 else 24
        heads = [wrapped(style[m].label, letters) for m in methods]
        height += 0.15 * max(head.count("\n") for head in heads)
        with canvas("layers", height) as (figure, (ax,)):
            text = len(names) <= 40 and len(methods) <= 7
            mesh = heat(ax, grid, text)
            if not text:
                scale_bar(figure, mesh, ax, "top", "zeros, %" if zeros else "weights left, %")
            ax.set_xticks([i + 0.5 for i in range(len(methods))], heads)
            if len(methods) > 5:
                ax.tick_params("x", rotation=90)
            every = 1 + len(names) // 60
            ax.set_yticks([i + 0.5 for i in range(0, len(names), every)], names[::every])
            title = f"{'Zeros' if zeros else 'Weights left'} per layer{at(where)}"
            shown = (
                "Each layer's zeros in %"
                if zeros
                else "What is left of each layer's weights in %, without the lost channels"
            )
            caption = (
                f"{shown}; mean over seeds, from the input (top) to the output. Darker means "
                f"{'denser' if zeros else 'narrower'}."
            )
            parts = [
                f"{style[m].label}: "
                + ", ".join(
                    f"{name} {100 * value:.1f} %"
                    for name, row in zip(names, grid, strict=True)
                    if (value := row[i]) is not None
                )
                for i, m in enumerate(methods)
            ]
            return finish(figure, "layers", title, caption, f"{'; '.join(parts)}.")
