"""Panels of points, of which the best are joined: quality over what a network costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steppe.core.pareto import dominators
from steppe.report.column import Cell
from steppe.report.point_names import place_names
from steppe.report.svg import INK, Figure, Look, canvas, finish, legend, log_scale, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Ends = tuple[float, float, float]
"""Lower end, middle and upper end."""
_LETTERS = 56  # of a panel's label in a line
_SPAN = 4.0  # times: from there on a quality of which less is better is on a log scale


@dataclass(frozen=True)
class Mark:
    """A network.

    Args:
        name: the method and how much.
        look: its colour, shape, and what the legend calls its like.
        quality: how good it is.
        costs: one for each panel.
        beside: what stands beside its points; "": the name.
    """

    name: str
    look: Look
    quality: Ends
    costs: tuple[Ends, ...]
    beside: str = ""


@dataclass(frozen=True)
class Axis:
    """What stands along an axis.

    Args:
        label: with the unit.
        more: whether more is better.
        said: how a value is written.
    """

    label: str
    more: bool = False
    said: str = "{:.4g}"


def frontier(
    key: str, what: str, caption: str, marks: Sequence[Mark], quality: Axis, costs: Sequence[Axis]
) -> Figure:
    """A panel for each cost; a line joins the networks that none is better than in both.

    Args:
        key, what, caption: of the figure.
        marks: of the networks, with a cost for each panel.
        quality: along y.
        costs: along x, one for each panel.
    """
    described, fronts = [], []
    with canvas(key, 3.3 * len(costs), len(costs)) as (figure, axes):
        for i, (ax, cost) in enumerate(zip(axes, costs, strict=True)):
            plane = {
                m.name: (_sign(quality) * m.quality[1], _sign(cost) * m.costs[i][1]) for m in marks
            }
            worse = dominators(plane)
            fronts.append([m for m in marks if m.name not in worse])
            _panel(ax, marks, i, fronts[-1], quality)
            better = f"({'more' if cost.more else 'less'} is better)"
            gap = "\n" if len(cost.label + better) > _LETTERS else " "
            ax.set_xlabel(wrapped(cost.label, _LETTERS) + gap + better)
            described += [
                f"{m.name}: {quality.label} {quality.said.format(m.quality[1])}, {cost.label} "
                + cost.said.format(m.costs[i][1])
                + (f", dominated by {worse[m.name]}" if m.name in worse else "")
                for m in marks
            ]
        legend(figure, axes[0], columns=2)
        figure.draw_without_rendering()  # so that it is known where the points are
        for i, (ax, front) in enumerate(zip(axes, fronts, strict=True)):
            points = {m.name: (m.costs[i][1], m.quality[1]) for m in marks}
            line = sorted(points[m.name] for m in front)
            texts = {m.name: m.beside or m.name for m in marks}
            place_names(ax, points, line, [n for n in points if points[n] not in line], texts)
        return finish(figure, key, what, caption, "; ".join(described) + ".")


def ends(cell: Cell) -> Ends:
    """The mean over seeds, one standard error to each side."""
    error = cell.error or 0.0
    return cell.mean - error, cell.mean, cell.mean + error


def _sign(axis: Axis) -> float:
    return -1.0 if axis.more else 1.0


def _panel(
    ax: Axes, marks: Sequence[Mark], place: int, best: Sequence[Mark], quality: Axis
) -> None:
    joined = sorted(best, key=lambda mark: mark.costs[place][1])
    xs, ys = [m.costs[place][1] for m in joined], [m.quality[1] for m in joined]
    ax.plot(xs, ys, color=INK, linewidth=1.0, alpha=0.5, label="_frontier")
    every = [mark.quality[1] for mark in marks]
    if not quality.more and max(every) > _SPAN * min(every):
        log_scale(ax)
    named: set[str] = set()
    for mark in marks:
        x, y, look = mark.costs[place], mark.quality, mark.look
        ax.errorbar(
            x[1],
            y[1],
            xerr=[[x[1] - x[0]], [x[2] - x[1]]],
            yerr=[[y[1] - y[0]], [y[2] - y[1]]],
            color=look.colour,
            linestyle="none",
            capsize=2.5,
            label="_whiskers",
        )
        size = 9 if look.marker == "*" else 6
        label = ("_" if look.label in named else "") + look.label
        ax.plot(x[1], y[1], look.marker, color=look.colour, markersize=size, label=label)
        named.add(look.label)
    ax.set_ylabel(quality.label)
    ax.margins(x=0.22, y=0.14)
