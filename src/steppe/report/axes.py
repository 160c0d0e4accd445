"""What several figures of a report share: lines and bars over sparsity, grids of cells."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from steppe.report.column import Cell
from steppe.report.level import Level, kinds
from steppe.report.svg import Figure, Look, canvas, finish, legend, log_scale, looks
from steppe.report.table import Row, Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure as Canvas

SPACED = "Points of one level stand apart only so that they can be told apart."


def sparse_rows(rows: Rows, *keys: str) -> list[Row]:
    """Those of pruned networks that have one of the columns."""
    return [
        r
        for r in rows.rows
        if r.method != "dense" and r.level is not None and any(r.cells.get(k) for k in keys)
    ]


def dense_cell(rows: Rows, key: str) -> Cell | None:
    """What the dense network has in a column."""
    return next((r.cells.get(key) for r in rows.rows if r.method == "dense"), None)


def looks_of(rows: Rows) -> dict[str, Look]:
    """A look for each method, one throughout the page."""
    return looks({r.method: r.display for r in rows.rows})


def levels_of(rows: Sequence[Row]) -> list[Level]:
    """The levels: those of one kind together, ascending."""
    return sorted({r.level for r in rows if r.level is not None})


def describe(rows: Rows, key: str) -> str:
    """The numbers of a column in words."""
    column = next(c for c in rows.columns if c.key == key)
    parts = [
        f"{'dense' if r.method == 'dense' else f'{r.display} at {r.where}'}: "
        + column.show(r.cells[key], r.seeds)
        for r in rows.rows
        if r.cells[key] is not None
    ]
    return f"{column.label}. {'; '.join(parts)}."


def level_axis(ax: Axes, levels: Sequence[Level], label: bool = True) -> None:
    """Levels along x, and what they count: once, or each where they count different things."""
    # evenly spaced: 90, 95, 98, 99 % to scale would crowd where it matters
    counted = kinds(levels)
    one = len(counted) == 1
    texts = [level.percent if one else f"{level.percent}\n{level.counted}" for level in levels]
    ax.set_xticks(range(len(levels)), texts)
    ax.set_xlim(-0.5, len(levels) - 0.5)
    ax.grid(False, axis="x")
    if label:
        asked = f"{counted[0]} asked for" if one else "asked for"
        ax.set_xlabel(f"{asked} (evenly spaced, not to scale)")


def band(ax: Axes, cell: Cell | None, scale: float, look: Look) -> None:
    """Dense: a dashed line, and one standard error around it."""
    if cell is None:
        return
    ax.axhline(scale * cell.mean, color=look.colour, linestyle="--", linewidth=1.2, label="dense")
    if cell.error is not None:
        low, high = (scale * (cell.mean + sign * cell.error) for sign in (-1, 1))
        ax.axhspan(low, high, color=look.colour, alpha=0.12, linewidth=0)


def draw_lines(ax: Axes, rows: Rows, key: str, scale: float, levels: Sequence[Level]) -> None:
    """A line per method with error bars, moved aside a little so that they do not cover.

    What counts different things is not joined.
    """
    style = looks_of(rows)
    methods = list(dict.fromkeys(r.method for r in sparse_rows(rows, key)))
    for i, method in enumerate(methods):
        shift = 0.09 * (i - (len(methods) - 1) / 2)
        own = {
            r.level: c
            for r in sparse_rows(rows, key)
            if r.method == method and (c := r.cells[key]) is not None and r.level is not None
        }
        look = style[method]
        for n, kind in enumerate(kinds(own)):
            points = [(levels.index(o) + shift, c) for o, c in own.items() if o.counted == kind]
            ax.errorbar(
                [x for x, _ in points],
                [scale * c.mean for _, c in points],
                yerr=[scale * (c.error or 0.0) for _, c in points],
                color=look.colour,
                marker=look.marker,
                markersize=5,
                linewidth=1.4,
                capsize=2.5,
                label="_" * (n > 0) + look.label,  # a name once in the legend
            )
    band(ax, dense_cell(rows, key), scale, style["dense"])


def draw_bars(
    rows: Rows, key: str, title: str, unit: str, caption: str, log: bool
) -> Figure | None:
    """Bars per method, grouped by sparsity; dense as a dashed band."""
    sparse = sparse_rows(rows, key)
    if not sparse:
        return None
    levels, style = levels_of(sparse), looks_of(rows)
    methods = list(dict.fromkeys(r.method for r in sparse))
    width = 0.8 / len(methods)
    cells = [c for r in rows.rows if (c := r.cells[key]) is not None]
    log = log and all(c.mean > 0 for c in cells)
    with canvas(key, 3.3) as (figure, (ax,)):
        for i, method in enumerate(methods):
            own = [(r.level, r.cells[key]) for r in sparse if r.method == method]
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
        band(ax, dense_cell(rows, key), 1.0, style["dense"])
        if log:
            log_scale(ax)
            low = min(c.mean for c in cells)
            # bars on a log scale have no natural foot: half the smallest one keeps it visible
            ax.set_ylim(bottom=low / 2)
        level_axis(ax, levels)
        ax.set_ylabel(unit + (" (log scale)" if log else ""))
        legend(figure, ax)
        return finish(figure, key, title, caption, describe(rows, key))


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of what is there."""
    known = [v for v in values if v is not None]
    return fmean(known) if known else None


def panels(
    rows: Rows, family: str, title: str, caption: str, named: str, quality: str = "accuracy"
) -> Figure | None:
    """Columns of one family, each a panel of lines over sparsity, in %.

    Args:
        rows: averaged over seeds.
        family: what the columns' keys begin with.
        title, caption: of the figure.
        named: the heading of a panel, with ``{}`` for the rest of the key.
        quality: what the columns hold.
    """
    keys = [c.key for c in rows.columns if c.key.startswith(f"{family} ")]
    sparse = sparse_rows(rows, *keys)
    if not sparse:
        return None
    # of many, evenly chosen ones: a page is no table
    shown = [keys[round(i * (len(keys) - 1) / 3)] for i in range(4)] if len(keys) > 4 else keys
    levels = levels_of(sparse)
    with canvas(family, 0.9 + 1.75 * len(shown), len(shown)) as (figure, axes):
        for i, (ax, key) in enumerate(zip(axes, shown, strict=True)):
            draw_lines(ax, rows, key, 100, levels)
            level_axis(ax, levels, i + 1 == len(shown))
            name = named.format(key.removeprefix(f"{family} "))
            ax.set_title(name, loc="left", fontsize=9.5)
            ax.set_ylabel(f"{quality}, %")
        legend(figure, *axes)
        described = " ".join(describe(rows, key) for key in keys)
        some = f" Four of {len(keys)} are drawn; the table has all." if len(keys) > 4 else ""
        return finish(figure, family, title, f"{caption}{some} {SPACED}", described)


def heat(
    ax: Axes, grid: Sequence[Sequence[float | None]], text: bool, digits: int = 1, size: float = 8
) -> QuadMesh:
    """Cells of fractions, as colours and in %.

    Args:
        ax: empty.
        grid: rows of cells, from the top; None where nothing was measured.
        text: whether the numbers stand in the cells.
        digits: of these numbers, after the point.
        size: of these numbers, in points.
    """
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
                shown = f"{100 * value:.{digits}f}"
                colour = "white" if dark else "black"
                ax.text(
                    x + 0.5, y + 0.5, shown, ha="center", va="center", fontsize=size, color=colour
                )
    return mesh


def scale_bar(figure: Canvas, mesh: Any, ax: Any, location: str, label: str) -> None:
    """What the colours of cells mean, as vectors like the cells."""
    bar = figure.colorbar(
        mesh,
        ax=ax,
        location=location,
        aspect=40,
        pad=0.02,
        label=label,
        format=lambda value, _: f"{100 * value:.4g}",
    )
    if bar.solids is not None:
        bar.solids.set_rasterized(False)
