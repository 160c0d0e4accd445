"""Figures of what lies inside the runs: sparsity per layer, training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from steppe.report.record import (
    Record,
    curve_of,
    is_dense,
    method_of,
    number,
    sparsity_of,
)
from steppe.report.svg import Figure, canvas, finish, legend, log_scale, looks
from steppe.report.table import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh


def _highest(records: Sequence[Record]) -> float | None:
    """The sparsity that most methods share; of several, the highest."""
    methods: dict[float, set[str]] = {}
    for record in records:
        where = sparsity_of(record)
        if where is not None and not is_dense(record):
            methods.setdefault(where, set()).add(method_of(record))
    return max(methods, key=lambda s: (len(methods[s]), s), default=None)


def _fractions(record: Record) -> dict[str, float]:
    """Layer -> fraction of zeros."""
    held = record.get("layers")
    found: dict[str, float] = {}
    for layer in held if isinstance(held, list | tuple) else ():
        if not isinstance(layer, Mapping):
            continue
        total, zeros = number(layer, "total"), number(layer, "zeros")
        if total and zeros is not None:
            found[str(layer.get("name", len(found)))] = zeros / total
    return found


def layers(records: Sequence[Record]) -> Figure | None:
    """Zeros per layer, a column per method, at the highest sparsity that most methods share.

    Args:
        records: with ``layers: [{name, total, zeros}]``.

    Returns:
        The figure; None when no record has layers.
    """
    having = [r for r in records if not is_dense(r) and _fractions(r)]
    where = _highest(having)
    having = [r for r in having if sparsity_of(r) == where]
    if where is None:
        return None
    names = list(dict.fromkeys(name for r in having for name in _fractions(r)))
    methods = list(dict.fromkeys(map(method_of, having)))
    style = looks(methods)
    grid = [
        [_mean([_fractions(r).get(name) for r in having if method_of(r) == m]) for m in methods]
        for name in names
    ]
    height = 1.1 + max(0.22 if len(names) <= 40 else 0.12, 1.0 / len(names)) * len(names)
    with canvas("layers", height) as (figure, (ax,)):
        text = len(names) <= 40 and len(methods) <= 7
        mesh = _heat(ax, grid, text)
        if not text:
            scale = figure.colorbar(
                mesh,
                ax=ax,
                location="top",
                aspect=40,
                pad=0.01,
                label="zeros, %",
                format=lambda value, _: f"{100 * value:.4g}",
            )
            if scale.solids is not None:
                scale.solids.set_rasterized(False)  # vectors, as the cells
        ax.set_xticks([i + 0.5 for i in range(len(methods))], [style[m].label for m in methods])
        if len(methods) > 5:
            ax.tick_params("x", rotation=90)
        every = 1 + len(names) // 60
        ax.set_yticks([i + 0.5 for i in range(0, len(names), every)], names[::every])
        title = f"Zeros per layer at {100 * where:.6g} %"
        caption = (
            "Each layer's zeros in %, mean over seeds, from the input (top) to the output. Darker "
            "means denser."
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


def _mean(values: Sequence[float | None]) -> float | None:
    held = [v for v in values if v is not None]
    return fmean(held) if held else None


def _heat(ax: Axes, grid: Sequence[Sequence[float | None]], text: bool) -> QuadMesh:
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    present = [v for row in grid for v in row if v is not None]
    low, high = min(present), max(present)
    norm = Normalize(low, high if high > low else low + 1e-3)
    colours = colormaps["cividis"]  # made for every kind of colour vision
    values = [[float("nan") if v is None else v for v in row] for row in grid]
    # cells as vectors: an image would be a blurred bitmap in print
    mesh = ax.pcolormesh(values, cmap=colours, norm=norm, linewidth=0.5, edgecolors="face")
    ax.invert_yaxis()
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.xaxis.tick_top()
    for y, row in enumerate(grid if text else ()):
        for x, value in enumerate(row):
            if value is not None:
                red, green, blue, _ = colours(norm(value))
                dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
                shown = f"{100 * value:.1f}"
                colour = "white" if dark else "black"
                ax.text(x + 0.5, y + 0.5, shown, ha="center", va="center", fontsize=8, color=colour)
    return mesh


_CURVES = (
    ("training loss", ("train_loss", "loss"), 1.0),
    ("accuracy while training, %", ("accuracy",), 100.0),
)


def _series(records: Sequence[Record], keys: Sequence[str]) -> dict[float, float]:
    """Epoch -> mean over seeds of the first of the keys that a row has."""
    found: dict[float, list[float]] = {}
    for record in records:
        for i, row in enumerate(curve_of(record)):
            value = next((v for key in keys if (v := number(row, key)) is not None), None)
            epoch = number(row, "epoch")
            if value is not None:
                found.setdefault(i if epoch is None else epoch, []).append(value)
    return {epoch: fmean(values) for epoch, values in sorted(found.items())}


def curves(records: Sequence[Record]) -> Figure | None:
    """Loss and accuracy while training, a line per method, mean over seeds.

    Args:
        records: with ``curve`` (or ``metrics``): rows of epoch, loss or train_loss, accuracy.

    Returns:
        The figure; None when no record has a curve.
    """
    having = [r for r in records if curve_of(r)]
    where = _highest(having)
    having = [r for r in having if is_dense(r) or sparsity_of(r) == where]
    methods = list(dict.fromkeys(map(method_of, having)))
    # the order of the rows, so that a method has one colour throughout the page
    style = looks([r.method for r in Rows.from_records(records).rows])
    drawn = []
    for label, keys, scale in _CURVES:
        lines = {m: _series([r for r in having if method_of(r) == m], keys) for m in methods}
        if any(lines.values()):
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
                    marker=look.marker,
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
        legend(figure, axes[0])
        at = "" if where is None else f" at {100 * where:.6g} %"
        caption = (
            "Means over seeds. What a method does to the weights after the last epoch is not in it."
        )
        return finish(figure, "curves", f"Training{at}", caption, f"{'; '.join(parts)}.")
