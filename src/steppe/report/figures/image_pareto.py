"""How good networks of images are, over what one image costs: classifiers and detectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from steppe.report.axes import looks_of
from steppe.report.column import Cell
from steppe.report.figures import FIGURES, Drawing
from steppe.report.frontier import Axis, Ends, Mark, ends, frontier
from steppe.report.level import Level, after, level_of, meaning
from steppe.report.quality import ACCURACY, PRECISION, Quality
from steppe.report.record import (
    Record,
    dense_records,
    display,
    find,
    is_dense,
    method_of,
    number,
)
from steppe.report.svg import Figure
from steppe.report.table import Rows

Pair = tuple[float | None, float | None]
"""Of the dense network and of the pruned one."""


def _multiply_adds(record: Record) -> Pair:
    dense, own = number(record, "dense.flops"), number(record, "sparse.flops")
    return _scaled(dense), _scaled(own)


def _predicted(record: Record) -> Pair:
    pair = find(record, "evaluations.latency.predicted_ms")
    return (pair[0], pair[1]) if isinstance(pair, list) and len(pair) == 2 else (None, None)


def _measured(record: Record) -> Pair:
    """As shares of the dense time: a machine's milliseconds differ from one hour to the next."""
    faster = number(record, "evaluations.latency.measured.ratio")
    return 1.0, None if faster is None else 1 / faster


def _scaled(value: float | None) -> float | None:
    return None if value is None else value / 1e6


COSTS: tuple[tuple[Axis, Callable[[Record], Pair]], ...] = (
    (Axis("multiply-adds, million"), _multiply_adds),
    (Axis("one image by the table of layers, ms"), _predicted),
    (Axis("one image as measured in turns, of the dense time"), _measured),
)


@FIGURES.register("image_pareto")
class ImagePareto(Drawing):
    """A panel each for multiply-adds, predicted and measured time; a line joins the frontier."""

    section, place = "gain", 6
    what = "Quality over cost"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        timed = [r for r in records if _measured(r)[1] is not None and not is_dense(r)]
        quality = next((q for q in (PRECISION, ACCURACY) if _has(timed, q)), None)
        if quality is None:
            return None
        groups: dict[tuple[str, Level | None], list[Record]] = {}
        for record in timed:
            groups.setdefault((method_of(record), level_of(record)), []).append(record)
        costs = [
            (axis, cost)
            for axis, cost in COSTS
            if all(None not in cost(r) for seeds in groups.values() for r in seeds)
        ]
        looks, levels = looks_of(rows), [where for _, where in groups]
        marks = []
        if dense := _quality(dense_records(records), quality):
            beside = tuple(_mean(cost(r)[0] for r in timed) for _, cost in costs)
            marks.append(Mark("dense", looks["dense"], dense, beside))
        for (method, where), seeds in groups.items():
            own = tuple(_mean(cost(r)[1] for r in seeds) for _, cost in costs)
            if found := _quality(seeds, quality):
                marks.append(
                    Mark(after(display(seeds[0]), where, levels), looks[method], found, own)
                )
        if len(marks) < 3:
            return None
        caption = (
            "The line joins the networks that no other one is better than; the names of all "
            "others are grey. Whiskers: one standard error over seeds. Times of steppe evaluate "
            f"--on latency.{meaning(levels)}"
        )
        shown = Axis(f"{quality.name}, %", more=True, said="{:.2f}")
        return frontier(
            "image_pareto", self.what, caption, marks, shown, [axis for axis, _ in costs]
        )


def _has(records: Sequence[Record], quality: Quality) -> bool:
    return any(number(r, f"sparse.{quality.key}") is not None for r in records)


def _quality(records: Sequence[Record], quality: Quality) -> Ends | None:
    values = [number(r, f"sparse.{quality.key}") for r in records]
    cell = Cell.of(100 * value for value in values if value is not None)
    return ends(cell) if cell is not None else None


def _mean(values: Iterable[float | None]) -> Ends:
    cell = Cell.of(values)
    assert cell is not None, "only what all networks have is drawn"
    return ends(cell)
