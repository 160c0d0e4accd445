"""The picture of the diagonal linear network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from steppe.report.svg import INK, Figure, canvas, finish, legend, log_scale, looks

POINTS = 60  # of a line: more cannot be seen
KEY, TITLE = "diagonal", "Distance to the sparse truth"
CAPTION = (
    "Lower is better. ||x - x*|| over the steps of gradient descent, mean over the starting "
    "points; the band is one standard error. A panel for each way in which the strength decays; "
    "each line has the strength, of those tried, that ends nearest."
)


def draw(
    steps: Sequence[int],
    best: Mapping[tuple[str, str], Mapping[str, Any]],
    labels: Mapping[str, str],
    titles: Mapping[str, str] = MappingProxyType({}),
) -> Figure:
    """Draw it.

    Args:
        steps: at which was measured.
        best: (arm, curve) -> ``alpha``, ``mean`` and ``error`` over these steps.
        labels: arm -> what it is called.
        titles: curve -> what its panel is called, if not as it is.

    Returns:
        The figure, a panel for each curve.
    """
    curves = list(dict.fromkeys(curve for _, curve in best))
    style = looks(labels)
    thin = slice(None, None, max(1, len(steps) // POINTS))
    rows = -(-len(curves) // 2)
    with canvas(KEY, 2.3 * rows + 0.6, rows, 2) as (figure, axes):
        for ax, curve in zip(axes, curves, strict=False):
            for arm, label in labels.items():
                if (arm, curve) not in best:
                    continue
                one, look = best[arm, curve], style[arm]
                at, mean, error = steps[thin], one["mean"][thin], one["error"][thin]
                low = [max(m - e, 1e-6) for m, e in zip(mean, error, strict=True)]
                high = [m + e for m, e in zip(mean, error, strict=True)]
                ax.plot(at, mean, color=look.colour, linewidth=1.4, label=label)
                ax.fill_between(at, low, high, color=look.colour, alpha=0.2, linewidth=0)
            ax.set_title(titles.get(curve, curve), fontsize=9.5)
            ax.set_ylabel("||x - x*||")
            log_scale(ax, marks=(1.0,))
            ax.set_ylim(bottom=1e-4)
            ax.set_xticks([0, steps[-1] // 2, steps[-1]])
            ax.set_xlabel("step")
        for ax in axes[len(curves) :]:
            ax.set_visible(False)
        legend(figure, axes[0], columns=1)
        words = "; ".join(
            f"{labels[arm]}, {curve}: {one['mean'][-1]:.4g} with strength {one['alpha']:g}"
            for (arm, curve), one in best.items()
        )
        return finish(figure, KEY, TITLE, CAPTION, f"Distances at the end. {words}.")


def alone(figure: Figure) -> str:
    """The drawing as an SVG file of its own, black on white."""
    start = '<svg xmlns="http://www.w3.org/2000/svg" style="background:white;color:#111"'
    return re.sub("^<svg", start, figure.svg).replace(INK, "#111")
