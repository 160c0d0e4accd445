"""Cells and tables: what is shown, and the unrounded figures behind it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """A text, and the figures in it as they were before rounding."""

    text: str
    figures: tuple[float, ...] = ()


def cell(form: str, *figures: float) -> Cell:
    """``cell("{:.2f} ± {:.2f}", mean, error)``."""
    return Cell(form.format(*figures), figures)


def half_range(values: Iterable[float], digits: int, scale: float = 1.0) -> Cell:
    """Mean ± half the range: for two or three seeds; the figure alone of one."""
    own = [scale * value for value in values]
    if len(own) == 1:
        return cell(f"{{:.{digits}f}}", *own)
    spread = (max(own) - min(own)) / 2
    return cell(f"{{:.{digits}f}} ± {{:.{digits}f}}", statistics.mean(own), spread)


def standard_error(values: Iterable[float], digits: int, scale: float = 1.0) -> Cell:
    """Mean ± standard error of the mean."""
    own = [scale * value for value in values]
    error = statistics.stdev(own) / len(own) ** 0.5
    return cell(f"{{:.{digits}f}} ± {{:.{digits}f}}", statistics.mean(own), error)


def two_digits(values: Iterable[float], most: int = 4) -> Cell:
    """Mean ± standard error, with as many digits as two of the error need."""
    own = list(values)
    error = statistics.stdev(own) / len(own) ** 0.5
    digits = min(most, max(0, 1 - int(f"{error:e}".split("e")[1]))) if error else most
    return cell(f"{{:.{digits}f}} ± {{:.{digits}f}}", statistics.mean(own), error)


Row = Sequence["str | Cell"]


@dataclass(frozen=True)
class Table:
    """A table of a page: plain strings are labels, cells hold figures.

    ``table["SAFE 95 %", "accuracy"]`` is the first figure of a cell: the row by its labels, the
    column by its head or the beginning of it; a third key asks for a later figure of the cell.
    """

    head: Sequence[str]
    rows: Sequence[Row]

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.head)]
        assert not wrong, f"rows of another length than the head: {wrong}"

    def __getitem__(self, key: tuple[str, str] | tuple[str, str, int]) -> float:
        label, column, *which = key
        rows = [row for row in self.rows if _label(row) == label]
        assert len(rows) == 1, f"{len(rows)} rows {label!r}; there are {[*map(_label, self.rows)]}"
        entry = rows[0][self._column(column)]
        assert isinstance(entry, Cell), f"{label!r}, {column!r} is a label"
        return entry.figures[which[0] if which else 0]

    def _column(self, column: str) -> int:
        same = [i for i, head in enumerate(self.head) if head == column]
        begin = [i for i, head in enumerate(self.head) if head.startswith(column)]
        chosen = same or begin
        assert len(chosen) == 1, f"{len(chosen)} columns {column!r} in {self.head}"
        return chosen[0]

    def markdown(self) -> str:
        """As a page has it."""
        rows = [[c.text if isinstance(c, Cell) else c for c in row] for row in self.rows]
        lines = [list(self.head), *rows]
        shown = ["|" + "|".join(f" {c} " if c else " " for c in line) + "|" for line in lines]
        return "\n".join([shown[0], "|---" * len(self.head) + "|", *shown[1:]])

    def labels(self) -> list[str]:
        """Head and labels: what names a row or a column."""
        return [*self.head, *(c for row in self.rows for c in row if isinstance(c, str))]

    def figures(self) -> list[float]:
        """Every figure, unrounded."""
        cells = (c for row in self.rows for c in row if isinstance(c, Cell))
        return [figure for c in cells for figure in c.figures]


def _label(row: Row) -> str:
    return " ".join(c for c in row if isinstance(c, str) and c)
