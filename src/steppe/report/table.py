"""One row per method and sparsity: the mean over seeds and its standard error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from steppe.core.errors import SteppeError
from steppe.report.column import COLUMNS, Cell, Column, each_class, families, on_images
from steppe.report.image_columns import image_columns
from steppe.report.level import ZEROS, Level, kinds, level_of
from steppe.report.record import (
    Record,
    dense_records,
    display,
    is_dense,
    method_of,
    number,
)
from steppe.report.times import predictions, time_columns

if TYPE_CHECKING:
    from rich.table import Table


_NOTHING = Level(ZEROS, 0.0)


@dataclass(frozen=True)
class Row:
    """One method at one sparsity: its seeds and its means.

    Args:
        method: as in the records.
        level: how much was asked for, and of what; None: dense, or not known.
        seeds: how many runs.
        display: what the method is called on the page.
        cells: column key -> mean, None where it was not measured.
    """

    method: str
    level: Level | None
    seeds: int
    display: str
    cells: Mapping[str, Cell | None]

    @property
    def where(self) -> str:
        """The level as text."""
        return "–" if self.level is None else self.level.text


@dataclass(frozen=True)
class Rows:
    """Records averaged over seeds; dense first, then by sparsity, in the order of the records.

    Args:
        columns: those that at least one record has a number for.
        rows: one per method and level.

    Example:
        >>> runs = [{"method": "safe", "seed": s, "sparsity_asked": 0.9,
        ...          "sparse": {"accuracy": 0.90 + s / 50}} for s in range(2)]
        >>> print(Rows.from_records(runs).markdown())
        | Method | Sparsity | Seeds | Accuracy, % |
        |---|---:|---:|---:|
        | SAFE | 90 % | 2 | 91.00 ± 1.00 |
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @classmethod
    def from_records(cls, records: Sequence[Record]) -> Rows:
        """Group by method and sparsity, and average.

        Raises:
            SteppeError: an accuracy that is no fraction.
        """
        groups: dict[tuple[str, Level | None], list[Record]] = {}
        dense = dense_records(records)
        if dense:
            groups["dense", None] = list(dense)
        for record in records:
            if not is_dense(record):
                groups.setdefault((method_of(record), level_of(record)), []).append(record)
        everything = [*records, *dense]
        columns = (
            *(own for column in COLUMNS for own in _by_kind(column, records)),
            *each_class(everything),
            *time_columns(records),
            *on_images(image_columns(everything), everything, "corruptions"),
            *on_images(families(everything), everything, "attacks"),
        )
        rows = [
            Row(
                method,
                where,
                len(runs),
                display(runs[0]),
                {c.key: Cell.of(map(c.read, runs)) for c in columns}
                | (_counted_beside(records, len(runs)) if method == "dense" else {}),
            )
            for (method, where), runs in groups.items()
        ]
        _check_fractions(rows, columns)
        # Python's sort is stable: within a sparsity the order of the records stays
        rows.sort(key=lambda r: (r.method != "dense", r.level is None, r.level or _NOTHING))
        present = tuple(c for c in columns if any(r.cells[c.key] for r in rows))
        return cls(present, tuple(rows))

    def has(self, key: str) -> bool:
        """Whether any row has a number in that column."""
        return any(c.key == key for c in self.columns)

    def only(self, *keys: str) -> Rows:
        """The same rows with those columns; ``noise`` and the like mean their whole family."""
        kept = (c for c in self.columns if c.key in keys or c.key.split(" ")[0] in keys)
        return Rows(tuple(kept), self.rows)

    def texts(self) -> tuple[list[str], list[list[str]]]:
        """The heading and the body, as text."""
        counted = kinds(r.level for r in self.rows)
        pruned = counted[0].capitalize() if len(counted) == 1 else "Pruned"
        asked = "Sparsity" if counted in ([], [ZEROS]) else pruned
        head = ["Method", asked, "Seeds", *(c.label for c in self.columns)]
        body = [
            [r.display, r.level.percent if r.level and len(counted) == 1 else r.where, str(r.seeds)]
            + [c.show(r.cells[c.key], r.seeds) for c in self.columns]
            for r in self.rows
        ]
        return head, body

    def rich(self, title: str | None = None) -> Table:
        """For the terminal."""
        from rich.table import Table

        head, body = self.texts()
        table = Table(title=title, caption="mean ± standard error over seeds")
        for i, label in enumerate(head):
            table.add_column(label, justify="right" if i else "left", no_wrap=i < 3)
        for i, (row, cells) in enumerate(zip(self.rows, body, strict=True)):
            last = i + 1 == len(body) or self.rows[i + 1].level != row.level
            table.add_row(*cells, end_section=last)
        return table

    def markdown(self) -> str:
        """A table in GitHub's Markdown."""
        head, body = self.texts()
        lines = [" | ".join(head), "|".join(["---", *["---:"] * (len(head) - 1)])]
        lines += [" | ".join(cell.replace("|", "\\|") for cell in cells) for cells in body]
        return "\n".join(f"|{line}|" if i == 1 else f"| {line} |" for i, line in enumerate(lines))

    def html(self, caption: str) -> str:
        """A table with a caption and scoped headings, in a frame that scrolls sideways."""
        head, body = self.texts()
        top = "".join(f'<th scope="col">{escape(label)}</th>' for label in head)
        lines = []
        for i, (row, cells) in enumerate(zip(self.rows, body, strict=True)):
            new = i > 0 and self.rows[i - 1].level != row.level
            first = f'<th scope="row">{escape(cells[0])}</th>'
            rest = "".join(f"<td>{escape(cell)}</td>" for cell in cells[1:])
            start = '<tr class="group">' if new else "<tr>"
            lines.append(f"{start}{first}{rest}</tr>")
        return (
            f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
            f"<caption><span>{escape(caption)}</span></caption><thead><tr>{top}</tr></thead>"
            f"<tbody>{''.join(lines)}</tbody></table></div>"
        )


def _by_kind(column: Column, records: Sequence[Record]) -> list[Column]:
    """A column; what was reached is a column for each kind of what was asked for."""
    if column.key != "reached":
        return [column]
    counted = kinds(map(level_of, records)) or [ZEROS]
    return [
        replace(
            column,
            key=column.key if kind == ZEROS else f"{column.key} {kind}",
            label=column.label.replace("Zeros", kind.capitalize()),
            read=partial(_if_counted, read=column.read, kind=kind),
        )
        for kind in counted
    ]


def _if_counted(record: Record, read: Callable[[Record], float | None], kind: str) -> float | None:
    level = level_of(record)
    return read(record) if level is None or level.counted == kind else None


def _counted_beside(records: Sequence[Record], seeds: int) -> dict[str, Cell | None]:
    """What only runs that prune channels say of the dense network; no error over its seeds."""
    tables = {dense for r in records for dense in predictions(r)}
    cells: dict[str, Cell | None] = {f"predicted {t:g}": Cell(t, None, seeds) for t in tables}
    counted = {n for r in records if (n := number(r, "dense.flops")) is not None}
    return cells | ({"flops": Cell(counted.pop(), None, seeds)} if len(counted) == 1 else {})


def _check_fractions(rows: Sequence[Row], columns: Sequence[Column]) -> None:
    for row in rows:
        for column in columns:
            cell = row.cells[column.key]
            if column.scale == 100 and cell is not None and not 0.0 <= cell.mean <= 1.0:
                raise SteppeError(
                    "accuracies, precisions and sparsities in records must be fractions in [0, 1]",
                    got=f"{column.key} {cell.mean:g} of {row.method}",
                    way_out="divide percentages by 100",
                )
