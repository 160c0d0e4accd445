"""The picture of a sweep: how good each setting is, over the values of what varies most."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steppe.experiment.tasks import Quality
from steppe.report.column import COLUMNS, Column
from steppe.report.svg import COLOURS, INK, MARKERS, canvas, legend, log_scale, standalone
from steppe.sweeps.grid import short_names, shown
from steppe.sweeps.results import Setting, best_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 6
"""Of settings of a third and further place, so many are drawn."""


def column_of(quality: Quality) -> Column:
    """How a quality is shown: as in reports, where they have it."""
    known = {column.key: column for column in COLUMNS}
    return known.get(quality.name, Column(quality.name, quality.name, lambda record: None))


def picture(settings: Sequence[Setting], quality: Quality) -> str:
    """An SVG file: a line over the values of one place, one line per value of the next.

    The place with the most values goes along x, evenly spaced; a third one gives panels below each
    other.

    Args:
        settings: of the sweep, any of them not done.
        quality: by which they are compared.
    """
    values = _values(settings)
    along, lines, rest = _roles(values)
    panels = _product(values, rest)[:PANELS]
    column = column_of(quality)
    with canvas("sweep", 0.9 + 2.3 * len(panels), len(panels)) as (figure, axes):
        for ax, panel in zip(axes, panels, strict=True):
            for i, line in enumerate(_product(values, lines)):
                fixed = panel | line
                own = [s for s in settings if fixed.items() <= _texts(s.values).items()]
                _draw(ax, own, along, values.get(along, [""]), column, i, _said(line))
            _mark(ax, best_of(settings, quality.higher), along, values, panel, column)
            _dress(ax, column, _said(panel))
        axes[-1].set_xlabel(along)
        if lines:
            legend(figure, axes[0], where="lower")
        better = "higher" if quality.higher else "lower"
        title = f"{column.label} on {quality.of}; {better} is better"
        return standalone(figure, "sweep", title)


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as they are shown, by short names."""
    names = short_names(list(values))
    return {names[place]: shown(value) for place, value in values.items()}


def _values(settings: Sequence[Setting]) -> dict[str, list[str]]:
    """What varies -> its values as texts; numbers in ascending order."""
    places = list(settings[0].values)
    names = short_names(places)
    found = {}
    for place in places:
        every = [s.values[place] for s in settings]
        if all(type(value) in (int, float) for value in every):
            every = sorted(every)
        found[names[place]] = list(dict.fromkeys(shown(value) for value in every))
    return found


def _roles(values: Mapping[str, list[str]]) -> tuple[str, list[str], list[str]]:
    """What goes along x, what tells lines apart (one or none), and what tells panels apart."""
    along, *others = sorted(values, key=lambda place: -len(values[place])) or [""]
    return along, others[:1], others[1:]


def _product(values: Mapping[str, list[str]], places: Sequence[str]) -> list[dict[str, str]]:
    every = itertools.product(*(values[place] for place in places))
    return [dict(zip(places, one, strict=True)) for one in every]


def _said(values: Mapping[str, str]) -> str:
    return ", ".join(f"{place} {value}" for place, value in values.items())


def _draw(
    ax: Axes,
    settings: Sequence[Setting],
    along: str,
    ticks: Sequence[str],
    column: Column,
    number: int,
    label: str,
) -> None:
    """A line of means with their errors, and a small point for each seed."""
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    at = sorted(
        (
            (ticks.index(_texts(s.values).get(along, "")), cell, s)
            for s in settings
            if (cell := s.cell) is not None
        ),
        key=lambda point: point[0],
    )
    ax.errorbar(
        [x for x, _, _ in at],
        [column.scale * cell.mean for _, cell, _ in at],
        yerr=[column.scale * (cell.error or 0.0) for _, cell, _ in at],
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=1.4,
        capsize=2.5,
        label=label,
    )
    for x, cell, setting in at:
        seeds = [column.scale * r.figure for r in setting.runs if r.figure is not None]
        if cell.n > 1:
            ax.plot([x] * len(seeds), seeds, ".", color=colour, markersize=3.5, alpha=0.6)
    ax.set_xticks(range(len(ticks)), ticks)
    ax.set_xlim(-0.4, len(ticks) - 0.6)
    ax.grid(False, axis="x")


def _mark(
    ax: Axes,
    best: Setting | None,
    along: str,
    values: Mapping[str, list[str]],
    panel: Mapping[str, str],
    column: Column,
) -> None:
    """A ring around the best setting, in the panel where it lies."""
    cell = best.cell if best is not None else None
    if best is None or cell is None or not panel.items() <= _texts(best.values).items():
        return
    x = values.get(along, [""]).index(_texts(best.values).get(along, ""))
    ax.plot([x], [column.scale * cell.mean], "o", color=INK, markersize=13, fillstyle="none")


def _dress(ax: Axes, column: Column, title: str) -> None:
    """A logarithmic scale where one setting is far from the others."""
    drawn: list[Any] = [line.get_ydata() for line in ax.lines]
    points = [float(y) for line in drawn for y in line if y > 0]
    if points and column.scale == 1.0 and max(points) > 3 * min(points):
        log_scale(ax)
    ax.set_ylabel(column.label)
    if title:
        ax.set_title(title, loc="left", fontsize=9.5)
