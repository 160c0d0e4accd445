"""Names beside the points of a panel, where they hide nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from steppe.report.svg import wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

_PLACES = (
    ((7, 4), "left", "bottom"),
    ((-7, 4), "right", "bottom"),
    ((7, -4), "left", "top"),
    ((-7, -4), "right", "top"),
    ((0, 7), "center", "bottom"),
    ((0, -7), "center", "top"),
)
"""Of a name beside its point, in points: the first that is free is taken."""
_LETTERS = 30  # of a name in a line
_MARK = 5.0  # pixels around a point that its mark takes


def place_names(
    ax: Axes,
    points: Mapping[str, tuple[float, float]],
    line: Sequence[tuple[float, float]] = (),
    grey: Sequence[str] = (),
    texts: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write each point's name beside it, clear of other names, marks, a line and the edges.

    Where no place is clear of all, the one that hides the fewest is taken.

    Args:
        ax: a panel whose figure has its final layout.
        points: name -> where it is, in the panel's units.
        line: its points, in the panel's units.
        grey: names that are less bold.
        texts: name -> what is written for it, if not the name.
    """
    from matplotlib.path import Path
    from matplotlib.transforms import Bbox

    marks = [Bbox.from_extents(*(at - _MARK), *(at + _MARK)) for at in _pixels(ax, points.values())]
    drawn = Path(_pixels(ax, line)) if line else None
    taken: list[Bbox] = []
    for name in sorted(points, key=lambda name: name in grey):  # the others go out of their way
        label = ax.annotate(
            wrapped(texts.get(name, name), _LETTERS),
            points[name],
            xytext=(0, 0),
            textcoords="offset points",
        )
        label.set(fontsize=7.5, alpha=0.7 if name in grey else 1.0)

        def box(place: int, label: Any = label) -> Bbox:
            offset, across, up = _PLACES[place]
            label.set(position=offset, ha=across, va=up)
            extent: Bbox = label.get_window_extent()
            return extent

        def hidden(place: int) -> int:
            own = box(place)
            inside = ax.bbox.x0 <= own.x0 and own.x1 <= ax.bbox.x1
            inside &= ax.bbox.y0 <= own.y0 and own.y1 <= ax.bbox.y1
            crossed = drawn is not None and drawn.intersects_bbox(own, filled=False)
            over = sum(own.overlaps(other) for other in (*marks, *taken))
            return over + crossed + 2 * (not inside)

        taken.append(box(min(range(len(_PLACES)), key=hidden)))


def _pixels(ax: Axes, points: Iterable[tuple[float, float]]) -> Any:
    return ax.transData.transform(list(points))
