"""The one table of "In short": a row per method, and a mark where it wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import hypot
from typing import TYPE_CHECKING

from steppe.core.speed import Speed
from steppe.core.text import counted
from steppe.report.column import COLUMNS, Cell, Column
from steppe.report.level import Level, after, highest, level_of
from steppe.report.quality import QUALITIES
from steppe.report.record import Record, first, is_dense, method_of
from steppe.report.table import Row, Rows
from steppe.report.times import Place, speed_of, time_key, usual_place
from steppe.report.verdicts import LEVEL

if TYPE_CHECKING:
    from rich.table import Table

MARK = "★"
LEVEL_TIMES = 0.1  # of the time: timings of one network differ by less


@dataclass(frozen=True)
class Measure:
    """A column of the table, and what counts as better in it.

    Args:
        column: how a cell is shown.
        higher: whether more is better.
        level: difference up to which two values are level, in the column's own unit.
        relative: whether ``level`` is a share of the better value instead.
        beats_dense: whether a value that is no better than the dense network's cannot win.
        least: measurements of each without which nobody wins.
    """

    column: Column
    higher: bool
    level: float
    relative: bool = False
    beats_dense: bool = False
    least: int = 1

    def better(self, a: Cell, b: Cell) -> bool:
        """Whether ``a`` is better than ``b`` by more than counts as level."""
        gap = a.mean - b.mean if self.higher else b.mean - a.mean
        slack = self.level * abs(b.mean) if self.relative else self.level
        # a hair of slack, so that 0.5 points computed as 0.5000000001 are level
        return gap > max(slack, hypot(a.error or 0.0, b.error or 0.0)) + 1e-9

    def winners(self, cells: Sequence[Cell | None], dense: Cell | None) -> list[bool]:
        """Which cells win: none is better; nobody does where all are level.

        Example:
            >>> MEASURES["accuracy"].winners([Cell(0.9, None, 1), Cell(0.8, None, 1)], None)
            [True, False]
            >>> MEASURES["accuracy"].winners([Cell(0.9, None, 1), Cell(0.9, None, 1)], None)
            [False, False]
        """
        there = [c for c in cells if c is not None]
        if any(c.n < self.least for c in there):
            return [False] * len(cells)
        best = [c is not None and not any(self.better(other, c) for other in there) for c in cells]
        if all(won for won, c in zip(best, cells, strict=True) if c is not None):
            return [False] * len(cells)
        if self.beats_dense and dense is not None:
            return [
                won and c is not None and self.better(c, dense)
                for won, c in zip(best, cells, strict=True)
            ]
        return best


_COLUMNS = {c.key: c for c in COLUMNS}
MEASURES = {
    "accuracy": Measure(_COLUMNS["accuracy"], True, LEVEL),
    "map50": Measure(_COLUMNS["map50"], True, LEVEL),
    "perplexity": Measure(_COLUMNS["perplexity"], False, 0.01, relative=True),
    "loss": Measure(_COLUMNS["loss"], False, 0.01, relative=True),
    "reached": Measure(Column("reached", "Zeros, %", lambda _: None, 100, 2), True, LEVEL),
    "removed": Measure(_COLUMNS["removed"], True, LEVEL),
    "size": Measure(
        Column("size", "Size, kB", lambda _: None, 1e-3, 0), False, 0.05, True, beats_dense=True
    ),
    "time": Measure(
        Column("time", "Time, of dense, %", lambda _: None, 1, 1),
        False,
        LEVEL_TIMES,
        True,
        beats_dense=True,
    ),
    "seconds": Measure(
        Column("seconds", "The run took, s", lambda _: None, 1, 1),
        False,
        LEVEL_TIMES,
        True,
        least=2,
    ),
}


@dataclass(frozen=True)
class ShortRow:
    """A method in the table.

    Args:
        method: as in the records.
        display: what it is called.
        texts: of its cells.
        wins: of its cells, whether it wins there.
    """

    method: str
    display: str
    texts: tuple[str, ...]
    wins: tuple[bool, ...]


@dataclass(frozen=True)
class ShortTable:
    """Quality, zeros or removed parameters, size, time: a row per method.

    Args:
        caption: at which sparsity, and what the mark says.
        head: the headings.
        rows: dense first.
        cells: measure -> method -> mean, as shown; ``dense`` among them.
        where: the level at which methods are compared; None where records do not say.
        compared: the methods at that level.
        speeds: method -> of each of its runs how its time compares with dense; None: not known.
        place: where these times were taken; None: when the runs ended.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[ShortRow, ...]
    cells: dict[str, dict[str, Cell | None]]
    where: Level | None
    compared: tuple[str, ...]
    speeds: dict[str, list[Speed | None]]
    place: Place | None = None

    def faster(self, method: str) -> bool:
        """Whether all runs of a method may claim to be faster than dense."""
        return _surely_faster(self.speeds[method])

    @classmethod
    def of(cls, records: Sequence[Record], rows: Rows) -> ShortTable | None:
        """The table of some runs; None where none was pruned.

        Methods are compared at the level that most of them share; of several, the highest. A
        method without it is shown at the highest it has, which its name says, and takes no part in
        the comparison.

        Args:
            records: as `Rows.from_records` takes them.
            rows: what it gave.
        """
        where = highest(records)
        chosen: dict[str, Row] = {}
        for row in (r for r in rows.rows if r.method != "dense"):
            if row.level == where or (chosen.get(row.method, row).level != where):
                chosen[row.method] = row  # the rows ascend in sparsity
        if not chosen:
            return None
        compared = tuple(m for m, row in chosen.items() if row.level == where)
        runs = [r for r in records if not is_dense(r) and level_of(r) == chosen[method_of(r)].level]
        place = usual_place(runs)
        cells = _cells(runs, rows, chosen, place)
        measures = {key: _sized(MEASURES[key], cells[key]) for key in cells}
        speeds = {
            method: [speed_of(r, place) for r in runs if method_of(r) == method]
            for method in chosen
        }
        wins = {
            key: dict(
                zip(
                    compared,
                    measure.winners([cells[key][m] for m in compared], cells[key].get("dense")),
                    strict=True,
                )
            )
            for key, measure in measures.items()
        }
        if "time" in wins:
            wins["time"] = {m: won and _surely_faster(speeds[m]) for m, won in wins["time"].items()}
        shown = {"dense": "dense"} | {
            m: row.display if row.level == where else after(f"{row.display},", row.level)
            for m, row in chosen.items()
        }
        seeds = {m: row.seeds for m, row in chosen.items()}
        made = tuple(
            ShortRow(
                method,
                name,
                tuple(
                    _text(measure.column, cells[key].get(method), seeds.get(method))
                    for key, measure in measures.items()
                ),
                tuple(won.get(method, False) for won in wins.values()),
            )
            for method, name in shown.items()
            if method != "dense" or any(own.get("dense") for own in cells.values())
        )
        head = ("Method", *(m.column.label for m in measures.values()))
        left = sum(r.method != "dense" for r in rows.rows) - len(chosen)
        caption = _caption(where, place, "time" in cells, len(compared) < len(chosen), left)
        return cls(caption, head, made, cells, where, compared, speeds, place)

    def markdown(self) -> str:
        """In GitHub's Markdown, the caption below."""
        lines = ["| " + " | ".join(self.head) + " |"]
        lines.append("|---|" + "---:|" * (len(self.head) - 1))
        for row in self.rows:
            texts = (row.display, *_marked(row))
            lines.append("| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |")
        return "\n".join(lines) + f"\n\n{self.caption}"

    def rich(self) -> Table:
        """For the terminal."""
        from rich.table import Table

        table = Table(caption=self.caption)
        for i, label in enumerate(self.head):
            table.add_column(label, justify="right" if i else "left")
        for i, row in enumerate(self.rows):
            table.add_row(row.display, *_marked(row), end_section=row.method == "dense" and i == 0)
        return table

    def html(self) -> str:
        """With a caption and scoped headings, in a frame that scrolls sideways."""
        top = "".join(f'<th scope="col">{escape(label)}</th>' for label in self.head)
        mark = f'<span class="mark" role="img" aria-label="best">{MARK}</span> '
        lines = []
        for row in self.rows:
            body = "".join(
                f'<td class="wins">{mark}{escape(text)}</td>' if won else f"<td>{escape(text)}</td>"
                for text, won in zip(row.texts, row.wins, strict=True)
            )
            lines.append(f'<tr><th scope="row">{escape(row.display)}</th>{body}</tr>')
        return (
            '<div class="scroll short" role="region" tabindex="0" aria-label="A row per method">'
            f"<table><caption><span>{escape(self.caption)}</span></caption><thead><tr>{top}</tr>"
            f"</thead><tbody>{''.join(lines)}</tbody></table></div>"
        )


def _surely_faster(speeds: Sequence[Speed | None]) -> bool:
    return all(speed is not None and speed.claimed for speed in speeds)


def _marked(row: ShortRow) -> list[str]:
    return [
        f"{MARK} {text}" if won else text for text, won in zip(row.texts, row.wins, strict=True)
    ]


def _text(column: Column, cell: Cell | None, seeds: int | None) -> str:
    """Without seeds, which are those of a method, there are none that could be missing."""
    return column.show(cell, seeds if seeds is not None or cell is None else cell.n)


def _caption(where: Level | None, place: Place | None, timed: bool, others: bool, left: int) -> str:
    at = "Pruned networks" if where is None else f"Networks with {where.text}"
    text = (
        f"{at}. {MARK} marks the best; networks that are level share it, and where all are level "
        "nobody has it. A size no better than dense gets none, nor a time that is not surely "
        "better. Size without zeros."
    )
    at_end = "in turns with dense when the run ended"
    told = at_end if place is None else f"in turns with dense on {place.text}"
    text += f" Time of one input, {told}." * timed
    text += " Methods that were not pruned so stand as they were and get no mark." * others
    return text + f" Pruned otherwise: {counted(left, 'more row')}, in the report." * (left > 0)


def _sized(measure: Measure, cells: dict[str, Cell | None]) -> Measure:
    """Sizes of large networks in MB."""
    if measure.column.key != "size" or max(c.mean for c in cells.values() if c) < 1e7:
        return measure
    column = Column("size", "Size, MB", measure.column.read, 1e-6, 1)
    return Measure(column, measure.higher, measure.level, measure.relative, measure.beats_dense)


def _cells(
    runs: Sequence[Record], rows: Rows, chosen: dict[str, Row], place: Place | None
) -> dict[str, dict[str, Cell | None]]:
    """Measure -> method -> mean; measures that no pruned network has are left out."""
    own = {m: row.cells for m, row in chosen.items()}
    dense = next((r.cells for r in rows.rows if r.method == "dense"), {})
    cells: dict[str, dict[str, Cell | None]] = {}
    qualities = [quality.key for quality in QUALITIES]
    for key in (*qualities, "reached", "removed", "size", "time", "seconds"):
        if key == "size":
            cells[key] = {m: c.get("packed") or c["bytes"] for m, c in own.items()}
        elif key == "time":
            cells[key] = {m: c.get(time_key(place)) for m, c in own.items()}
        else:
            cells[key] = {m: c.get(key) for m, c in own.items()}
        if key in qualities:
            cells[key]["dense"] = dense.get(key)
    # measured beside the sparse networks, in the same runs
    beside = Cell.of(first(r, "dense.bytes") for r in runs)
    # over methods too: its error is none over seeds
    once = Cell(beside.mean, None, beside.n) if beside else None
    cells["size"]["dense"] = once or dense.get("bytes")
    cells["time"]["dense"] = Cell(100.0, None, len(runs))
    there = {k: v for k, v in cells.items() if any(v[m] for m in chosen)}
    quality = [k for k in qualities if k in there]
    unwanted = set(quality[1:])
    if "removed" in there and all(there["removed"].values()):
        unwanted.add("reached")
    if "time" in there:
        unwanted.add("seconds")
    return {k: v for k, v in there.items() if k not in unwanted}
