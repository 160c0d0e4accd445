"""How good networks of images are, over what one image costs: classifiers and detectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from steppe.core.text import counted
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
    method_of,
    number,
)
from steppe.report.svg import Figure
from steppe.report.table import Rows
from steppe.report.times import (
    Place,
    images_predicted,
    places,
    predictions,
    share,
    to_be_timed,
)

Pair = tuple[float | None, float | None]
"""Of the dense network and of the pruned one."""


def _multiply_adds(record: Record) -> Pair:
    dense, own = number(record, "dense.flops"), number(record, "sparse.flops")
    return _scaled(dense), _scaled(own)


def _predicted(record: Record, dense: float) -> Pair:
    return dense, predictions(record).get(dense)


def _measured(record: Record, place: Place) -> Pair:
    """As shares of the dense time: a machine's milliseconds differ from one hour to the next."""
    return 100.0, share(record, place)


def _scaled(value: float | None) -> float | None:
    return None if value is None else value / 1e6


Cost = tuple[Axis, Callable[[Record], Pair]]


def _costs(timed: Sequence[Record]) -> list[Cost]:
    """What all of some runs have: a panel for each table of layers, and for each place."""
    tables = sorted({dense for r in timed for dense in predictions(r)})
    costs: list[Cost] = [(Axis("multiply-adds, million"), _multiply_adds)]
    costs += [
        (
            Axis(f"{images_predicted(timed, dense)} by the table of layers, ms"),
            partial(_predicted, dense=dense),
        )
        for dense in tables
    ]
    costs += [
        (Axis(f"one image, {place.text}, % of the dense time"), partial(_measured, place=place))
        for place in places(timed)
    ]
    return [(axis, cost) for axis, cost in costs if all(None not in cost(r) for r in timed)]


@FIGURES.register("image_pareto")
class ImagePareto(Drawing):
    """A panel each for multiply-adds, predicted and measured time; a line joins the frontier."""

    section, place = "gain", 6
    what = "Quality over cost"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        usual = places(records)[:1]
        timed = [r for r in records if usual and share(r, usual[0]) is not None]
        quality = next((q for q in (PRECISION, ACCURACY) if _has(timed, q)), None)
        if quality is None:
            return None
        groups: dict[tuple[str, Level | None], list[Record]] = {}
        for record in timed:
            groups.setdefault((method_of(record), level_of(record)), []).append(record)
        costs = _costs(timed)
        looks, levels = looks_of(rows), [where for _, where in groups]
        marks = []
        if dense := _quality(dense_records(records), quality):
            beside = tuple(_mean(cost(r)[0] for r in timed) for _, cost in costs)
            marks.append(Mark("dense", replace(looks["dense"], marker="*"), dense, beside))
        for (method, where), seeds in groups.items():
            own = tuple(_mean(cost(r)[1] for r in seeds) for _, cost in costs)
            if found := _quality(seeds, quality):
                name = after(display(seeds[0]), where, levels)
                # whose point it is the legend says
                marks.append(Mark(name, looks[method], found, own, after("", where, levels)))
        if len(marks) < 3:
            return None
        missing = sum(r not in timed for r in to_be_timed(records))
        caption = (
            "The line joins the networks that no other one is better than; the names of all "
            "others are grey. Whiskers: one standard error over seeds. Times in turns with dense, "
            f"by steppe evaluate --on latency.{meaning(levels)}"
            + f" Left out: {counted(missing, 'run that was', 'runs that were')} not timed there."
            * (missing > 0)
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
