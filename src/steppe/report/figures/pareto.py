"""What pruned language models predict, over their size and over their speed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from steppe.core.pareto import dominators
from steppe.report.column import Cell
from steppe.report.figures import FIGURES, Drawing
from steppe.report.point_names import place_names
from steppe.report.record import Record, display, find, is_dense, number, sparsity_of
from steppe.report.svg import COLOURS, INK, Figure, canvas, finish, legend, log_scale
from steppe.report.table import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KINDS = {
    "dense": (INK, "*"),
    "unstructured": (COLOURS[0], "o"),
    "N:M": (COLOURS[3], "s"),
    "structured": (COLOURS[1], "D"),
    "structured and unstructured": (COLOURS[2], "^"),
    "structured and N:M": (COLOURS[4], "v"),
}
_SPAN = 4.0  # times: from there on the perplexities are on a log scale


@dataclass(frozen=True)
class Mark:
    """A model.

    Args:
        name: the method and how much.
        kind: a key of ``_KINDS``.
        perplexity, packed, rate: lower, middle and upper end of each.
    """

    name: str
    kind: str
    perplexity: tuple[float, float, float]
    packed: tuple[float, float, float]
    rate: tuple[float, float, float]


@FIGURES.register("pareto")
class Pareto(Drawing):
    """Two panels: perplexity over bytes, and over tokens per second; a line joins the frontier."""

    section, place = "gain", 5
    what = "Perplexity over size and speed"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        marks = _marks(records)
        if len(marks) < 3:
            return None
        panels: list[tuple[str, float, Callable[[Mark], tuple[float, float, float]]]] = [
            ("size, zeros as a bit mask, MB", 1.0, lambda mark: mark.packed),
            ("writing, tokens per second", -1.0, lambda mark: mark.rate),
        ]
        described, fronts = [], []
        with canvas("pareto", 6.6, 2) as (figure, axes):
            for ax, (label, sign, of) in zip(axes, panels, strict=True):
                plane = {m.name: (m.perplexity[1], sign * of(m)[1]) for m in marks}
                worse = dominators(plane)
                fronts.append([m for m in marks if m.name not in worse])
                _panel(ax, marks, of, fronts[-1])
                ax.set_xlabel(f"{label} ({'less' if sign > 0 else 'more'} is better)")
                described += [
                    f"{m.name}: perplexity {m.perplexity[1]:.2f}, {label} {of(m)[1]:.4g}"
                    + (f", dominated by {worse[m.name]}" if m.name in worse else "")
                    for m in marks
                ]
            legend(figure, axes[0], columns=2)
            figure.draw_without_rendering()  # so that it is known where the points are
            for ax, (_, _, of), front in zip(axes, panels, fronts, strict=True):
                points = {m.name: (of(m)[1], m.perplexity[1]) for m in marks}
                line = sorted(points[m.name] for m in front)
                place_names(ax, points, line, [n for n in points if points[n] not in line])
            caption = (
                "Lower is better. The line joins the models that no other one is better than; the "
                "names of all others are grey. Whiskers: over several seeds one standard error, "
                "of one seed the middle half of the turns. Measured by steppe bench on one text."
            )
            return finish(figure, "pareto", self.what, caption, "; ".join(described) + ".")

    def hint(self, records: Sequence[Record]) -> str:
        text = [r for r in records if "blocks" in r and not is_dense(r)]
        timed = any(find(r, "evaluations.speed.speed") for r in text)
        if len(text) < 2 or not timed or len(_marks(records)) > 2:
            return ""
        return (
            "What these models predict beside their size and speed was not measured. This draws "
            "it: steppe bench RUN... --text TEXT, then steppe report again."
        )


def _panel(
    ax: Axes,
    marks: Sequence[Mark],
    of: Callable[[Mark], tuple[float, float, float]],
    frontier: Sequence[Mark],
) -> None:
    best = sorted(frontier, key=lambda mark: of(mark)[1])
    xs, ys = [of(mark)[1] for mark in best], [mark.perplexity[1] for mark in best]
    ax.plot(xs, ys, color=INK, linewidth=1.0, alpha=0.5, label="_frontier")
    every = [mark.perplexity[1] for mark in marks]
    if max(every) > _SPAN * min(every):
        log_scale(ax)
    named: set[str] = set()
    for mark in marks:
        colour, shape = _KINDS.get(mark.kind, (INK, "x"))
        x, y = of(mark), mark.perplexity
        ax.errorbar(
            x[1],
            y[1],
            xerr=[[x[1] - x[0]], [x[2] - x[1]]],
            yerr=[[y[1] - y[0]], [y[2] - y[1]]],
            color=colour,
            linestyle="none",
            capsize=2.5,
            label="_whiskers",
        )
        size = 9 if shape == "*" else 6
        label = ("_" if mark.kind in named else "") + mark.kind
        ax.plot(x[1], y[1], shape, color=colour, markersize=size, label=label)
        named.add(mark.kind)
    ax.set_ylabel("perplexity")
    ax.margins(x=0.22, y=0.14)


def _marks(records: Sequence[Record]) -> list[Mark]:
    """The dense model and each method and sparsity that were measured on the commonest text."""
    texts = Counter(map(_text_of, records))
    texts.pop("", None)
    if not texts:
        return []
    text = texts.most_common(1)[0][0]
    groups: dict[str, list[Record]] = {}
    for record in records:
        if _text_of(record) == text and not is_dense(record):
            groups.setdefault(_name_of(record), []).append(record)
    first = next(iter(groups.values()))
    marks = [_mark("dense", first[:1], "dense")]
    marks += [_mark(name, seeds, "sparse") for name, seeds in groups.items()]
    return [mark for mark in marks if mark is not None]


def _name_of(record: Record) -> str:
    where = sparsity_of(record)
    return display(record) + ("" if where is None else f" {100 * where:.6g} %")


def _text_of(record: Record) -> str:
    """What tells the text apart on which a record's model was measured; "" where it was not."""
    point = find(record, "evaluations.speed.points.sparse")
    if number(record, "evaluations.speed.points.sparse.perplexity") is None:
        return ""
    return "/".join(str(point.get(key)) for key in ("sha256", "window", "stride"))


def _mark(name: str, seeds: Sequence[Record], kind: str) -> Mark | None:
    point = f"evaluations.speed.points.{kind}"
    sizes = [number(r, f"{point}.packed_bytes") for r in seeds]
    rates = [_rates(r, kind) for r in seeds]
    perplexity = Cell.of(number(r, f"{point}.perplexity") for r in seeds)
    packed = Cell.of(size / 1e6 for size in sizes if size is not None)
    rate = Cell.of(own[1] for own in rates if own is not None)
    if perplexity is None or packed is None or rate is None:
        return None
    turns = rates[0] if rate.n == 1 and rates[0] is not None else _ends(rate)
    kinds = str(find(seeds[0], f"{point}.kind"))
    return Mark(name, kinds, _ends(perplexity), _ends(packed), turns)


def _ends(cell: Cell) -> tuple[float, float, float]:
    error = cell.error or 0.0
    return cell.mean - error, cell.mean, cell.mean + error


def _rates(record: Record, kind: str) -> tuple[float, float, float] | None:
    """Tokens per second in the first batch: the middle half of the turns, and their median."""
    speeds: Any = find(record, "evaluations.speed.speed") or {}
    batch = next(iter(speeds), None)
    arm = find(record, f"evaluations.speed.speed.{batch}.generation.{kind}")
    own = f"evaluations.speed.arms.{arm}.batches.{batch}"
    middle = number(record, f"{own}.tokens_per_second")
    if middle is None:
        return None
    each = [float(value) for value in find(record, f"{own}.each") or ()]
    low, _, high = (
        quantiles(each, n=4, method="inclusive") if len(each) > 1 else (middle, middle, middle)
    )
    return min(low, middle), middle, max(high, middle)
