"""The picture of README and the documentation, from a record: ``python benchmarks/picture.py``

Perplexity of a small language model against its zeros, a line per method, from
``records/llm-table.json``, as ``docs/pictures/language-model.svg``. One record gives one file, byte
for byte, with one version of matplotlib.
"""

from __future__ import annotations

from math import exp, log
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from pages import sources

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "pictures" / "language-model.svg"

PERCENT = (50, 60, 70)
LINES = {  # runs of the record: label, colour
    "wanda": ("Wanda", "#8c8c8c"),
    "magnitude": ("magnitude", "#8c8c8c"),
    "sparsegpt": ("SparseGPT", "#CC79A7"),
    "safe": ("SAFE", "#0072B2"),
    "alps": ("ALPS", "#D55E00"),
    "best": ("SAFE from ALPS's solution", "#009E73"),
}
APART = 0.055  # between two labels, in the logarithm of the perplexity


def main() -> None:
    record = sources.record("llm-table")
    style = {"svg.fonttype": "none", "svg.hashsalt": "steppe", "font.size": 10}
    with mpl.rc_context(style):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained", facecolor="white")
        draw(figure, record)
        figure.savefig(PICTURE, format="svg", metadata={"Date": None})
    text = PICTURE.read_text()  # matplotlib leaves blanks at the ends of lines
    PICTURE.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")


def draw(figure: Figure, record: dict) -> None:
    axes = figure.add_subplot()
    ends = {}
    for name, (_, colour) in LINES.items():
        values = [record["runs"][f"{name}-{percent}"]["perplexity"] for percent in PERCENT]
        width = 2.4 if name == "best" else 1.6
        axes.plot(PERCENT, values, "o-", color=colour, linewidth=width, markersize=4)
        ends[name] = values[-1]
    lowest = 0.0
    for name in sorted(ends, key=ends.__getitem__):
        label, colour = LINES[name]
        lowest = max(log(ends[name]), lowest + APART)
        axes.text(70.6, exp(lowest), label, color=colour, va="center")
    dense = record["dense"]
    axes.axhline(dense, color="black", linestyle=":", linewidth=1)
    axes.text(50, dense * 0.985, f"dense, {dense:.1f}", va="top")
    axes.set_yscale("log")
    axes.set_ylim(35, 105)
    axes.set_yticks([40, 50, 60, 80, 100], ["40", "50", "60", "80", "100"])
    axes.yaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.set_xlim(49.5, 80)
    axes.set_xticks(PERCENT, [f"{percent} %" for percent in PERCENT])
    axes.set_xlabel("zeros", x=0.35)
    axes.set_ylabel("perplexity (lower is better)")
    axes.grid(alpha=0.2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


if __name__ == "__main__":
    main()
