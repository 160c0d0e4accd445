"""What the papers print, beside what was measured."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from steppe.methods import display_of
from steppe.report.column import Cell
from steppe.report.level import FEWER, ZEROS, level_of
from steppe.report.record import (
    Record,
    find,
    method_of,
    number,
    wrong_labels,
)
from steppe.report.table import Rows

HEAD = ("Paper", "Setting", "Method", "Pruned", "Quantity", "The paper's", "Here")
_ALIKE = {"imagenet": r"(?<!tiny)(?<!mini)imagenet(1k|2012|/|$)"}
"""Where a data set's name is a part of those of others, what it is called."""


_COUNTED = {
    "fraction of parameters gone": FEWER["parameters"],
    "for latency": FEWER["latency"],
}
"""What a setting's percentage counts, where it is no share of zeros."""


@dataclass(frozen=True)
class Printed:
    """A number of a paper.

    Args:
        paper, table: where it stands.
        setting: network, data and what was special.
        method: its name here, or as printed where steppe has none of that name.
        zeros: in %, of what ``counted`` says; None: dense.
        quantity: the column's key, see `steppe.report.column` and `steppe.report.image_columns`; or
            ``wrong_labels RATE``.
        value, error: as printed.
        source: ``paper``, or ``transcribed`` from notes about it.
    """

    paper: str
    table: str
    setting: str
    method: str
    zeros: float | None
    quantity: str
    value: str
    error: str
    source: str

    @property
    def counted(self) -> str:
        """What the percentage counts, as runs say it: by what the setting says."""
        return next((kind for said, kind in _COUNTED.items() if said in self.setting), ZEROS)


@cache
def printed() -> tuple[Printed, ...]:
    """Everything in papers.csv.

    Example:
        >>> next(p.value for p in printed() if (p.method, p.quantity) == ("safe", "corrupted_19 3"))
        '73.98'
    """
    text = files("steppe.report").joinpath("papers.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(
        Printed(
            row["paper"],
            row["table"],
            row["setting"],
            row["method"],
            float(row["zeros_pct"]) if row["zeros_pct"] else None,
            row["quantity"],
            row["value"],
            row["error"],
            row["source"],
        )
        for row in csv.DictReader(lines)
    )


def beside(records: Sequence[Record], rows: Rows) -> list[list[str]]:
    """The papers' numbers for which the runs have one: same method, sparsity and quantity.

    Args:
        records: of the runs, those on wrong labels too.
        rows: the others, averaged over seeds.

    Returns:
        Rows of text under `HEAD`; none when nothing fits.
    """
    columns = {c.key: c for c in rows.columns}
    data = next((str(d) for r in records if (d := find(r, "recipe.data.name"))), "")
    measured = {
        (r.method.lower(), r.level.counted, round(100 * r.level.share, 3)): r
        for r in rows.rows
        if r.level is not None
    }
    lines = []
    for p in printed():
        if p.zeros is None or (data and not _same_data(p.setting, data)):
            continue
        row = measured.get((p.method.lower(), p.counted, p.zeros))
        wrong = _wrong(p, records)
        if wrong is not None:
            label, shown = f"Accuracy, {p.quantity.split()[1]} % wrong labels, %", wrong
        elif row is not None and p.quantity in columns and row.cells[p.quantity] is not None:
            column = columns[p.quantity]
            label, shown = column.label, column.show(row.cells[p.quantity], row.seeds)
        else:
            continue
        theirs = p.value + (f" ± {p.error}" if p.error else "")
        where = f"{p.paper}, table {p.table}" + (" (from notes)" if p.source != "paper" else "")
        gone = f"{p.zeros:g} % {p.counted}"
        lines.append([where, p.setting, display_of(p.method), gone, label, theirs, shown])
    return lines


def _same_data(setting: str, data: str) -> bool:
    """Whether runs on that data can stand beside a paper's setting.

    Example:
        >>> _same_data("ResNet-20, CIFAR-10, flawed attack", "some/cifar10-jpeg")
        True
        >>> _same_data("ResNet-20, CIFAR-10", "digits")
        False
        >>> [_same_data("ResNet-50, ImageNet", d) for d in ("ILSVRC/imagenet-1k", "tiny-imagenet")]
        [True, False]
    """
    plain = re.sub(r"[^a-z0-9/]", "", data.lower())
    parts = [re.sub(r"[^a-z0-9]", "", part.lower()) for part in setting.split(", ")[1:2]]
    return any(re.search(_ALIKE.get(part, rf"{part}(?!\d)"), plain) for part in parts)


def _wrong(p: Printed, records: Sequence[Record]) -> str | None:
    kind, _, rate = p.quantity.partition(" ")
    if kind != "wrong_labels" or p.zeros is None:
        return None
    own = [
        number(r, "sparse.accuracy")
        for r in records
        if abs(100 * wrong_labels(r) - float(rate)) < 1e-6
        and method_of(r).lower() == p.method.lower()
        and (level := level_of(r)) is not None
        and level.counted == p.counted
        and abs(100 * level.share - p.zeros) < 1e-6
    ]
    cell = Cell.of(own)
    if cell is None:
        return None
    error = f" ± {100 * cell.error:.2f}" if cell.error else ""
    return f"{100 * cell.mean:.2f}{error}"
