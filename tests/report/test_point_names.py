"""Names beside points: none hides another, a point or a line, where there is room."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.path import Path

from steppe.report.point_names import place_names


def test_names_keep_clear_of_each_other_of_points_and_of_the_line() -> None:
    figure = Figure(figsize=(4, 3), layout="constrained")
    ax = figure.subplots()
    points = {"dense": (9.0, 1.0), "first": (1.0, 5.0), "near it": (1.2, 5.1), "edge": (9.2, 5.0)}
    line = [points["first"], (4.0, 2.0), points["dense"]]
    ax.plot(*zip(*points.values(), strict=True), "o")
    ax.margins(0.2)
    figure.draw_without_rendering()
    place_names(ax, points, line, ["near it"])
    boxes = {text.get_text(): text.get_window_extent() for text in ax.texts}
    assert boxes.keys() == points.keys()
    drawn = Path(ax.transData.transform(line))
    for name, box in boxes.items():
        assert not any(box.overlaps(other) for n, other in boxes.items() if n != name)
        assert not any(box.contains(*ax.transData.transform(at)) for at in points.values())
        assert not drawn.intersects_bbox(box, filled=False)
        assert ax.bbox.x0 <= box.x0
        assert box.x1 <= ax.bbox.x1
    assert [text.get_alpha() for text in ax.texts if text.get_text() == "near it"] == [0.7]
