"""Matplotlib figures as SVG that a page can hold: text stays text, colours follow the page."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Okabe and Ito's palette without its black (dense is drawn in the colour of the text) and its
# yellow (unreadable on white)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vPX*"
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "++", "oo", "--")
# a colour that nothing else uses; becomes currentColor, black on white or white on black
INK = "#010203"
_LETTERS = 64  # of a legend's names in a row
WIDTH = 4.8  # inches: at a phone's width the text keeps about its size


@dataclass(frozen=True)
class Figure:
    """A drawing with what a reader needs who does not see it.

    Args:
        key: its id within the page.
        title: what it shows.
        caption: how to read it, one or two sentences.
        svg: the drawing, labelled by its title and description.
    """

    key: str
    title: str
    caption: str
    svg: str

    def html(self) -> str:
        """The figure with its heading and caption."""
        return (
            f'<figure id="{self.key}"><h3>{escape(self.title)}</h3>{self.svg}'
            f"<figcaption>{escape(self.caption)}</figcaption></figure>"
        )


@contextmanager
def _style(key: str) -> Iterator[None]:
    import matplotlib as mpl

    ink = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    )
    rest = {
        "svg.fonttype": "none",
        "svg.hashsalt": key,  # the same records give the same bytes
        "font.family": "sans-serif",
        "font.size": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": INK,
        "grid.alpha": 0.15,
        "legend.frameon": False,
        "hatch.linewidth": 0.6,
    }
    with mpl.rc_context(ink | rest):
        yield


@contextmanager
def canvas(
    key: str, height: float, panels: int = 1, across: int = 1
) -> Iterator[tuple[Canvas, list[Axes]]]:
    """An empty figure with panels below one another, in the report's style.

    Args:
        key: the figure's id.
        height: of all of it, inches.
        panels: how many below one another.
        across: how many beside one another.
    """
    from matplotlib.figure import Figure as Canvas

    with _style(key):
        # not pyplot: no global list of figures, no display
        figure = Canvas(figsize=(WIDTH, height), layout="constrained")
        figure.patch.set_alpha(0.0)
        axes = figure.subplots(panels, across, squeeze=False)
        for ax in axes.flat:
            ax.patch.set_alpha(0.0)
        yield figure, list(axes.flat)


def finish(figure: Canvas, key: str, title: str, caption: str, description: str) -> Figure:
    """The drawing as inline SVG: no prologue, no outside names, ids of its own, labelled.

    Args:
        figure: what `canvas` gave; call within it.
        key, title, caption: of the `Figure`.
        description: the numbers in words, for a screen reader.
    """
    from io import StringIO

    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # HTML knows svg's names by itself; an address in the page would look like a request
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    # ids must be unique in the page, and every figure has its own figure_1
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{key}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", svg)
    svg = svg.replace(INK, "currentColor")
    size = re.search(r'viewBox="[^"]+"', svg)
    assert size is not None
    start = (
        f'<svg {size.group()} role="img" aria-labelledby="{key}-title {key}-description">'
        f'<title id="{key}-title">{escape(title)}</title>'
        f'<desc id="{key}-description">{escape(description)}</desc>'
    )
    return Figure(key, title, caption, start + svg[svg.index(">") + 1 :].strip())


def standalone(figure: Canvas, key: str, title: str) -> str:
    """The drawing as an SVG file of its own, black on white, with its title above it.

    Args:
        figure: what `canvas` gave; call within it.
        key: as given to `canvas`.
        title: what it shows.
    """
    from io import StringIO

    buffer = StringIO()
    figure.suptitle(title, fontsize=10)
    figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Title": title})
    return buffer.getvalue().replace(INK, "#000000")


@dataclass(frozen=True)
class Look:
    """A method's colour, marker and hatch; the same in every figure of a page.

    Args:
        label: the method's name as shown.
        colour: of lines and bars.
        marker: of points.
        hatch: of bars, so that they differ in print too.
    """

    label: str
    colour: str
    marker: str
    hatch: str


def looks(displays: Mapping[str, str]) -> dict[str, Look]:
    """A look for each method, dense in the colour of the text.

    Args:
        displays: method -> what it is called on the page, in the order of the colours.

    Example:
        >>> looks({"dense": "dense", "safe": "SAFE"})["safe"].colour
        '#0072B2'
    """
    by_method = {"dense": Look("dense", INK, "", "")}
    for i, method in enumerate(m for m in displays if m != "dense"):
        by_method[method] = Look(
            displays[method],
            COLOURS[i % len(COLOURS)],
            MARKERS[i % len(MARKERS)],
            HATCHES[i % len(HATCHES)],
        )
    return by_method


def wrapped(text: str, letters: int) -> str:
    """A text in lines of so many letters at most; a longer word is broken.

    Example:
        >>> wrapped("HALP, table of 8 ms", 11)
        'HALP, table\\nof 8 ms'
    """
    return "\n".join(textwrap.wrap(text, max(letters, 6), break_on_hyphens=False)) or text


def legend(figure: Canvas, *panels: Axes, columns: int = 3, where: str = "upper") -> None:
    """One legend above the panels, or below them, clear of data and title; each name once."""
    named: dict[str, Any] = {}
    for ax in panels:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    handles, labels = list(named.values()), list(named)
    if handles:
        fit = max(1, _LETTERS // max(map(len, labels)))  # long names need the width of two
        loc, ncols = f"outside {where} center", min(columns, len(handles), fit)
        figure.legend(handles, labels, loc=loc, ncols=ncols)


def log_scale(ax: Axes, marks: Sequence[float] = (1.0, 2.0, 5.0)) -> None:
    """A logarithmic y axis with plain numbers, 0.05 and not 5 x 10^-2; marks of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=marks))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
