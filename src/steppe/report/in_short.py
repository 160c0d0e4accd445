"""What a manager reads: at most five sentences, and one table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import MappingProxyType

from steppe.core.speed import DENSE_KERNELS
from steppe.report.column import Cell
from steppe.report.image_columns import mean_key
from steppe.report.notes import notes
from steppe.report.quality import QUALITIES, Quality, share_among
from steppe.report.record import Record, wrong_labels
from steppe.report.short_table import MEASURES, Measure, ShortTable
from steppe.report.table import Rows
from steppe.report.variants import told_apart
from steppe.report.verdicts import verdicts

MOST = 5  # sentences
NAMES = 3  # of methods in a sentence


@dataclass(frozen=True)
class InShort:
    """The top of a report.

    Args:
        sentences: at most five.
        table: a row per method; None where no run was pruned.
        full: all that can be said of the runs in sentences, with every number.
    """

    sentences: list[str]
    table: ShortTable | None
    full: list[str]

    @classmethod
    def of(cls, records: Sequence[Record]) -> InShort:
        """Of the runs of a report.

        Args:
            records: as `Rows.from_records` takes them. Those on wrong labels count only where
                there are no others.

        Example:
            >>> runs = [{"method": m, "seed": 0, "sparsity_asked": 0.9, "dense": {"accuracy": 0.9},
            ...          "sparse": {"accuracy": a}} for m, a in (("safe", 0.898), ("gmp", 0.7))]
            >>> for sentence in InShort.of(runs).sentences: print(sentence)
            At 90 % zeros SAFE (89.80 %) is as accurate as the dense network (90.00 %).
            One run of each: small differences may be chance.
        """
        records = told_apart(records)
        records = [r for r in records if not wrong_labels(r)] or records
        rows = Rows.from_records(records)
        table = ShortTable.of(records, rows)
        remarks = notes(records)
        full = [*verdicts(records), *remarks]
        if table is None:
            return cls(full[:1], None, full)
        told = [
            _quality(table),
            _elsewhere(table, rows),
            _size_and_time(table),
            _sturdiest(table, rows),
            _caution(rows, len(remarks)),
        ]
        return cls([sentence for sentence in told if sentence], table, full)


def _names(
    methods: Iterable[str], table: ShortTable, values: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Methods as the table names them, with ``values`` behind them."""
    displays = {row.method: row.display for row in table.rows}
    return _joined([displays[m] + values.get(m, "") for m in methods])


def _joined(names: Sequence[str]) -> str:
    """``A``, ``A and B``, or a few and how many more."""
    if len(names) > NAMES:
        names = [*names[: NAMES - 1], f"{len(names) - NAMES + 1} others"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _place(table: ShortTable) -> str:
    return "Here" if table.where is None else f"At {table.where.text}"


def _shown(measure: Measure, cell: Cell) -> str:
    """A mean without its error, which the table has."""
    unit = " %" if measure.column.scale == 100 else ""
    return measure.column.show(Cell(cell.mean, None, cell.n), cell.n) + unit


def _best(
    table: ShortTable, measure: Measure, cells: dict[str, Cell | None]
) -> list[tuple[str, Cell]]:
    """The compared methods that none is better than, the best first."""
    there = [(m, c) for m in table.compared if (c := cells.get(m)) is not None]
    there.sort(key=lambda pair: -pair[1].mean if measure.higher else pair[1].mean)
    return [(m, c) for m, c in there if not measure.better(there[0][1], c)]


def _quality(table: ShortTable) -> str:
    quality = next((own for own in QUALITIES if own.key in table.cells), None)
    if quality is None:
        return (
            "No record holds an accuracy, mean precision, perplexity or loss: methods are not "
            "compared on it."
        )
    measure, cells = MEASURES[quality.key], table.cells[quality.key]
    best = _best(table, measure, cells)
    if not best:
        return ""
    dense = cells.get("dense")
    return (
        _best_alone(table, quality, best)
        if dense is None
        else _beside_dense(table, quality, best, dense)
    )


def _best_alone(table: ShortTable, quality: Quality, best: list[tuple[str, Cell]]) -> str:
    are = "are level: the best" if len(best) > 1 else f"is the {quality.best}"
    if len(table.compared) == 1:
        are = "reaches"
    value = quality.alone.format(_shown(MEASURES[quality.key], best[0][1]))
    return f"{_place(table)} {_names((m for m, _ in best), table)} {are}: {value}."


def _beside_dense(
    table: ShortTable, quality: Quality, best: list[tuple[str, Cell]], dense: Cell
) -> str:
    measure, cells = MEASURES[quality.key], table.cells[quality.key]
    there = [(m, c) for m in table.compared if (c := cells[m]) is not None]
    there.sort(key=lambda pair: -pair[1].mean if measure.higher else pair[1].mean)
    above = [m for m, c in there if measure.better(c, dense)]
    level = [m for m, c in there if m not in above and not measure.better(dense, c)]
    than = _shown(measure, dense)
    if not above and not level:
        closest = [m for m, _ in best]
        if len(table.compared) == 1:
            alone = f"{_place(table)} {_names(closest, table)} is {quality.worse}"
            return f"{alone}: {_shown(measure, best[0][1])} against {than}."
        comes = "come" if len(best) > 1 else "comes"
        who = f"{_with_values(closest, table, quality)} {comes} closest"
        return f"{_place(table)} every method is {quality.worse} ({than}); {who}."
    parts, beside = [], f"the dense network ({than})"
    for own, said in ((above, quality.better), (level, quality.as_good)):
        if own:
            are = "are" if len(own) > 1 else "is"
            parts.append(f"{_with_values(own, table, quality)} {are} {said} {beside}")
            beside = "it"
    return f"{_place(table)} {'; '.join(parts)}."


def _with_values(methods: Sequence[str], table: ShortTable, quality: Quality) -> str:
    """Names, each with its own value."""
    cells = table.cells[quality.key]
    known = {m: c for m in methods if (c := cells[m]) is not None}
    values = {m: f" ({_shown(MEASURES[quality.key], c)})" for m, c in known.items()}
    return _names(methods, table, values)


def _up_to(table: ShortTable, rows: Rows) -> str:
    """The highest level at which some method is as good as dense, if it is another one."""
    quality = share_among(table.cells)
    dense = table.cells.get(quality.key, {}).get("dense")
    scored = [
        (r.level, r.display, c)  # without the level that the table may put behind a name
        for r in rows.rows
        if r.level is not None and table.where is not None and (c := r.cells[quality.key])
        if r.level.counted == table.where.counted  # others are no more and no less
    ]
    levels = {level for level, _, _ in scored}
    if dense is None or len(levels) < 2:
        return ""
    kept = [(s, m) for s, m, c in scored if not MEASURES[quality.key].better(dense, c)]
    if not kept:
        return f"Already at {min(levels).text} no method is {quality.as_good} dense."
    most = max(s for s, _ in kept)
    if most == table.where:
        return ""
    names = [m for s, m in kept if s == most]
    keep = "keep" if len(names) > 1 else "keeps"
    return f"Up to {most.text} {_joined(names)} {keep} {quality.keeps}."


def _elsewhere(table: ShortTable, rows: Rows) -> str:
    """How far methods keep what dense reaches, and who was pruned otherwise.

    Less of something else is no more and no less.
    """
    up_to, where = _up_to(table, rows).removesuffix("."), table.where
    quality = next((own for own in QUALITIES if own.key in table.cells), None)
    alike = {
        r.method
        for r in rows.rows
        if up_to and r.level is not None and where is not None and r.level.counted == where.counted
    }
    others = [method for method in _not_compared(table) if method not in alike]
    if quality is None or not others:
        return _sentence([up_to])
    otherwise = f"pruned otherwise and not compared: {_with_values(others, table, quality)}"
    return _sentence([up_to, otherwise])


def _not_compared(table: ShortTable) -> list[str]:
    """The methods of the table that were not pruned as those that are compared."""
    return [row.method for row in table.rows if row.method not in ("dense", *table.compared)]


def _sentence(parts: Iterable[str]) -> str:
    """One sentence of several; "" of none."""
    text = "; ".join(filter(None, parts))
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _size_and_time(table: ShortTable) -> str:
    """How much smaller and faster than dense, or that it is neither."""
    parts = []
    smaller, dense = table.cells.get("size", {}), table.cells.get("size", {}).get("dense")
    if dense and (best := _best(table, MEASURES["size"], smaller)):
        times = dense.mean / best[0][1].mean
        names = _names((m for m, _ in best), table)
        are = "are" if len(best) > 1 else "is"
        parts.append(
            f"stored without zeros {names} {are} {times:.1f} times smaller than dense"
            if times > 1.05
            else "no network is smaller than dense"
        )
    if "time" in table.cells:
        parts += [_time(table), _faster_elsewhere(table)]
    return _sentence(parts)


def _time(table: ShortTable) -> str:
    """Who of the compared is surely faster than dense, or why nobody is."""
    cells = table.cells["time"]
    surely = {m: cells[m] if table.faster(m) else None for m in table.compared}
    best = [m for m, _ in _best(table, MEASURES["time"], surely)]
    if best:
        times, least = _gain(table, best[0])
        names = _names(best, table)
        return f"one input is {times:.2f} times as fast with {names} (at least {least:.2f})"
    known = [s for m in table.compared for s in table.speeds[m]]
    # of the others nothing is said here
    at = f" {_place(table).lower()}" if _not_compared(table) and table.where else ""
    if any(s is None for s in known):
        return f"whether one is faster{at} is not known, as they were not timed in paired turns"
    if any(s.reason for s in known if s is not None):
        return f"none{at} is surely faster here"
    return f"none{at} is faster here, as {DENSE_KERNELS}"


def _faster_elsewhere(table: ShortTable) -> str:
    """Who is surely faster than dense of those that are not compared."""
    gains = {m: _gain(table, m) for m in _not_compared(table) if table.faster(m)}
    values = {m: f" ({times:.2f} times, at least {low:.2f})" for m, (times, low) in gains.items()}
    return f"surely faster, pruned otherwise: {_names(gains, table, values)}" if gains else ""


def _gain(table: ShortTable, method: str) -> tuple[float, float]:
    """How many times as fast as dense a method is, and at least."""
    speeds = [s for s in table.speeds[method] if s is not None]
    return fmean(s.ratio for s in speeds), min(s.low for s in speeds)


def _sturdiest(table: ShortTable, rows: Rows) -> str:
    """Who loses least on corrupted or attacked images, and whose minimum is the flattest."""
    own = {r.method: r.cells for r in rows.rows if r.level == table.where}
    quality = share_among(table.cells)
    measure = MEASURES[quality.key]
    attacked = [c.key for c in rows.columns if c.key.split(" ")[0] in ("linf", "l2")]
    parts = []
    on_corrupted = mean_key(rows.columns)
    places = {on_corrupted: "on corrupted images"} if on_corrupted else {}
    places |= dict.fromkeys(attacked[:1], "under attack")
    for key, place in places.items():
        cells = {m: own[m].get(key) for m in table.compared}
        best = _best(table, measure, cells)
        if len([c for c in cells.values() if c]) > 1:
            right = _shown(measure, best[0][1])
            parts.append(f"{place}: {_names((m for m, _ in best), table)} ({right})")
    if not parts:
        return ""
    return f"{quality.most} {'; '.join(parts)}."


def _caution(rows: Rows, remarks: int) -> str:
    """What makes the numbers doubtful."""
    doubts = []
    if all(r.seeds == 1 for r in rows.rows if r.method != "dense"):
        doubts.append("one run of each: small differences may be chance")
    if remarks:
        count = "1 remark" if remarks == 1 else f"{remarks} remarks"
        doubts.append(f"read the {count} on these averages at the end of the full sentences")
    return _sentence(doubts)
