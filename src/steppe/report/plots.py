"""The figures of a report, each from averaged rows; None where nothing was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steppe.report.column import Cell
from steppe.report.svg import Figure, Look, canvas, finish, legend, log_scale, looks
from steppe.report.table import Row, Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SPACED = "Points stand apart within a sparsity only so that they can be told apart."


def _sparse(rows: Rows, *keys: str) -> list[Row]:
    return [
        r
        for r in rows.rows
        if r.method != "dense" and r.sparsity is not None and any(r.cells.get(k) for k in keys)
    ]


def _dense(rows: Rows, key: str) -> Cell | None:
    return next((r.cells.get(key) for r in rows.rows if r.method == "dense"), None)


def _looks(rows: Rows) -> dict[str, Look]:
    return looks([r.method for r in rows.rows])


def _levels(rows: Sequence[Row]) -> list[float]:
    return sorted({r.sparsity for r in rows if r.sparsity is not None})


def _describe(rows: Rows, key: str) -> str:
    """The numbers of a column in words."""
    column = next(c for c in rows.columns if c.key == key)
    parts = [
        f"{'dense' if r.method == 'dense' else f'{r.method} at {r.where}'}: "
        + column.show(r.cells[key], r.seeds)
        for r in rows.rows
        if r.cells[key] is not None
    ]
    return f"{column.label}. {'; '.join(parts)}."


def _sparsity_axis(ax: Axes, levels: Sequence[float], label: bool = True) -> None:
    # evenly spaced: 90, 95, 98, 99 % to scale would crowd where it matters
    ax.set_xticks(range(len(levels)), [f"{100 * level:.6g} %" for level in levels])
    ax.set_xlim(-0.5, len(levels) - 0.5)
    ax.grid(False, axis="x")
    if label:
        ax.set_xlabel("zeros asked for (evenly spaced, not to scale)")


def _band(ax: Axes, cell: Cell | None, scale: float, look: Look) -> None:
    """Dense: a dashed line, and one standard error around it."""
    if cell is None:
        return
    ax.axhline(scale * cell.mean, color=look.colour, linestyle="--", linewidth=1.2, label="dense")
    if cell.error is not None:
        low, high = (scale * (cell.mean + sign * cell.error) for sign in (-1, 1))
        ax.axhspan(low, high, color=look.colour, alpha=0.12, linewidth=0)


def _lines(ax: Axes, rows: Rows, key: str, scale: float, levels: Sequence[float]) -> None:
    """A line per method with error bars, moved aside a little so that they do not cover."""
    style = _looks(rows)
    methods = list(dict.fromkeys(r.method for r in _sparse(rows, key)))
    for i, method in enumerate(methods):
        shift = 0.09 * (i - (len(methods) - 1) / 2)
        held = [
            (levels.index(r.sparsity) + shift, c)
            for r in _sparse(rows, key)
            if r.method == method and (c := r.cells[key]) is not None and r.sparsity is not None
        ]
        look = style[method]
        ax.errorbar(
            [x for x, _ in held],
            [scale * c.mean for _, c in held],
            yerr=[scale * (c.error or 0.0) for _, c in held],
            color=look.colour,
            marker=look.marker,
            markersize=5,
            linewidth=1.4,
            capsize=2.5,
            label=look.label,
        )
    _band(ax, _dense(rows, key), scale, style["dense"])


def _close_up(rows: Rows) -> tuple[float, float] | None:
    """Limits, in %, of those within 6 points of the best, when one far below squeezes them."""
    means = [100 * c.mean for r in rows.rows if (c := r.cells["accuracy"]) is not None]
    near = [m for m in means if m >= max(means) - 6.0]
    if max(means) - min(means) < 12.0 or len(near) < 3:
        return None
    return min(near) - 0.5, min(100.0, max(near) + 0.5)


def accuracy(rows: Rows) -> Figure | None:
    """Accuracy against sparsity, a line per method, dense as a dashed band.

    Args:
        rows: averaged over seeds.

    Returns:
        The figure; None when no sparse run has an accuracy.
    """
    held = _sparse(rows, "accuracy")
    if not held:
        return None
    levels = _levels(held)
    close = _close_up(rows)
    with canvas("accuracy", 6.0 if close else 3.5, 2 if close else 1) as (figure, axes):
        for ax in axes:
            _lines(ax, rows, "accuracy", 100, levels)
            _sparsity_axis(ax, levels, label=ax is axes[-1])
            ax.set_ylabel("accuracy, %")
        if close:
            axes[0].set_title("all", loc="left", fontsize=9.5)
            axes[1].set_title("the best, closer", loc="left", fontsize=9.5)
            axes[1].set_ylim(*close)
        legend(figure, axes[0])
        caption = (
            "Higher is better. Bars are one standard error over seeds; the dashed band is the "
            f"dense network. {_SPACED}"
        )
        title = "Accuracy against sparsity"
        return finish(figure, "accuracy", title, caption, _describe(rows, "accuracy"))


def _bars(rows: Rows, key: str, title: str, unit: str, caption: str, log: bool) -> Figure | None:
    """Bars per method, grouped by sparsity; dense as a dashed band."""
    held = _sparse(rows, key)
    if not held:
        return None
    levels, style = _levels(held), _looks(rows)
    methods = list(dict.fromkeys(r.method for r in held))
    width = 0.8 / len(methods)
    cells = [c for r in rows.rows if (c := r.cells[key]) is not None]
    log = log and all(c.mean > 0 for c in cells)
    with canvas(key, 3.3) as (figure, (ax,)):
        for i, method in enumerate(methods):
            own = [(r.sparsity, r.cells[key]) for r in held if r.method == method]
            pairs = [(levels.index(s), c) for s, c in own if s is not None and c is not None]
            look = style[method]
            ax.bar(
                [x + (i - (len(methods) - 1) / 2) * width for x, _ in pairs],
                [c.mean for _, c in pairs],
                width * 0.92,
                yerr=[c.error or 0.0 for _, c in pairs],
                error_kw={"ecolor": style["dense"].colour, "linewidth": 1.0, "capsize": 2},
                color=look.colour,
                hatch=look.hatch,
                edgecolor=style["dense"].colour,
                linewidth=0.5,
                label=look.label,
            )
        _band(ax, _dense(rows, key), 1.0, style["dense"])
        if log:
            log_scale(ax)
            low = min(c.mean for c in cells)
            # bars on a log scale have no natural foot: half the smallest one keeps it visible
            ax.set_ylim(bottom=low / 2)
        _sparsity_axis(ax, levels)
        ax.set_ylabel(unit + (" (log scale)" if log else ""))
        legend(figure, ax)
        return finish(figure, key, title, caption, _describe(rows, key))


def hessian(rows: Rows) -> Figure | None:
    """The top Hessian eigenvalue, bars on a log scale (linear where one is not positive).

    Returns:
        The figure; None when no sparse run has it.
    """
    return _bars(
        rows,
        "hessian_top",
        "Top Hessian eigenvalue",
        "eigenvalue",
        "Lower is flatter: the steepest curvature of the training loss at the final weights. "
        "Bars are means, lines one standard error over seeds; dashed: dense.",
        True,
    )


def sharpness(rows: Rows, rho: Sequence[float] = ()) -> Figure | None:
    """The largest rise of the loss in a ball around the weights, bars.

    Args:
        rows: averaged over seeds.
        rho: the radii that were used, for the caption.

    Returns:
        The figure; None when no sparse run has it.
    """
    radius = f" = {', '.join(f'{r:g}' for r in rho)}" if rho else ""
    caption = (
        f"Lower is flatter: the most that the loss rises as the weights move by at most ρ{radius}. "
        "Bars are means, lines one standard error over seeds; dashed: dense."
    )
    return _bars(rows, "sharpness", "Sharpness", "rise of the loss", caption, False)


def noise(rows: Rows, most: int = 4) -> Figure | None:
    """Accuracy under noise against sparsity, a panel per strength.

    Args:
        rows: averaged over seeds.
        most: panels; of more strengths, evenly chosen ones are drawn.

    Returns:
        The figure; None when nothing was tried under noise.
    """
    keys = [c.key for c in rows.columns if c.key.startswith("noise ") and c.key != "noise 0"]
    held = _sparse(rows, *keys)
    if not held:
        return None
    shown = keys
    if len(keys) > most:
        shown = [keys[round(i * (len(keys) - 1) / (most - 1))] for i in range(most)]
    levels = _levels(held)
    with canvas("noise", 0.9 + 1.75 * len(shown), len(shown)) as (figure, axes):
        for i, (ax, key) in enumerate(zip(axes, shown, strict=True)):
            _lines(ax, rows, key, 100, levels)
            _sparsity_axis(ax, levels, label=i + 1 == len(shown))
            ax.set_title(f"noise σ = {key.removeprefix('noise ')}", loc="left", fontsize=9.5)
            ax.set_ylabel("accuracy, %")
        legend(figure, axes[0])
        caption = (
            "Higher is better. Gaussian noise of standard deviation σ on pixels in [0, 1]; each "
            f"panel has its own scale. {_SPACED}"
        )
        described = " ".join(_describe(rows, key) for key in keys)
        return finish(figure, "noise", "Accuracy under noise", caption, described)
