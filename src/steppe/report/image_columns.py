"""The columns of corrupted and of new images: their means say over which kinds they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import fmean

from steppe.core.variants import in_order, variant_of
from steppe.report.column import Column
from steppe.report.corrupted import CORRUPTED as _RESULT
from steppe.report.corrupted import (
    corrupted_cells,
    corrupted_clean,
    corrupted_quality,
    severities_of,
)
from steppe.report.quality import ACCURACY, Quality
from steppe.report.record import Record, find, number

_EVERY = ("1", "2", "3", "4", "5")
_PAPERS = ("15", "19")  # the common kinds of ImageNet-C; with its extra ones
MEANS = ("corrupted_15", "corrupted_19", "corrupted_run", "corrupted")
"""Families of the mean over all severities that were taken, the most usual first; the last holds
those at one severity."""


def image_columns(records: Sequence[Record]) -> list[Column]:
    """The columns that records have numbers for; a family's name is the key up to its space."""
    return [
        *_means(records),
        *_by_severity(records),
        *_errors(records),
        *_new_images(records),
    ]


def mean_key(columns: Iterable[Column]) -> str | None:
    """The key of the mean on corrupted images by which methods are compared; None without one."""
    keys = [column.key for column in columns]
    return next((k for family in MEANS for k in keys if k.split(" ")[0] == family), None)


def severity_mean(record: Record, severity: str, extra: bool = False) -> float | None:
    """Mean accuracy or precision at one severity, over the kinds that are not extra, or all 19.

    Args:
        record: of a run.
        severity: 1 to 5.
        extra: whether the extra ones count; then all 19 must be there.

    Example:
        >>> cells = {"fog": {"3": 0.5}, "snow": {"3": 0.7}, "spatter": {"3": 1.0}}
        >>> shares = {"accuracy": cells, "extra": ["spatter"]}
        >>> severity_mean({"evaluations": {"corruptions": shares}}, "3")
        0.6
    """
    names = _kinds(record, extra)
    if extra and len(names) != int(_PAPERS[1]):
        return None
    cells = corrupted_cells(record)
    shares = [cells[name][severity] for name in names if severity in cells[name]]
    return fmean(shares) if shares else None


def _kinds(record: Record, extra: bool) -> list[str]:
    """The corruptions that were run, with or without the extra ones."""
    apart = () if extra else (find(record, f"{_RESULT}.extra") or ())
    return [name for name in corrupted_cells(record) if name not in apart]


def _quality(records: Sequence[Record]) -> Quality:
    """What was measured on corrupted images."""
    return next((own for r in records if (own := corrupted_quality(r)) is not None), ACCURACY)


def _severities(record: Record) -> tuple[str, ...]:
    return tuple(severities_of([record]))


def _at(severities: Sequence[str]) -> tuple[str, str]:
    """What a key and a label say of the severities: nothing of all five."""
    if tuple(severities) == _EVERY:
        return "", ""
    word = "severity" if len(severities) == 1 else "severities"
    return f" {','.join(severities)}", f", {word} {', '.join(severities)}"


def _paper_mean(record: Record, count: str, severities: Sequence[str]) -> float | None:
    """The mean over the 15 or 19 kinds, where all of them were run at these severities."""
    names = _kinds(record, extra=count == _PAPERS[1])
    if _severities(record) != tuple(severities):
        return None
    stored = number(record, f"{_RESULT}.mean_{count}")
    if stored is not None or len(names) != int(count):
        return stored
    cells = corrupted_cells(record)  # a result from before the means had names
    return fmean(share for name in names for share in cells[name].values())


def _relative(record: Record, count: str, severities: Sequence[str]) -> float | None:
    mean, clean = _paper_mean(record, count, severities), corrupted_clean(record)
    return mean / clean if mean is not None and clean else None


def _of_run(record: Record, names: Sequence[str], severities: Sequence[str]) -> float | None:
    """The mean over exactly these kinds and severities."""
    cells = corrupted_cells(record)
    if tuple(cells) != tuple(names) or _severities(record) != tuple(severities):
        return None
    return fmean(share for own in cells.values() for share in own.values())


def _means(records: Sequence[Record]) -> list[Column]:
    """Over 15 and 19 kinds, and R_C of each; else over what was run, under its own name."""
    columns = []
    quality = _quality(records)
    for severities in _distinct(_severities(r) for r in records):
        key, label = _at(severities)
        one = severities[0] if len(severities) == 1 else None
        of_papers = False
        for count in _PAPERS:
            mean = partial(_paper_mean, count=count, severities=severities)
            if not any(mean(r) is not None for r in records):
                continue
            of_papers = True
            heading = f"{quality.changed}, {count} kinds{label}, %"
            if len(severities) > 1:  # a single one has a column of its own
                columns.append(Column(f"corrupted_{count}{key}", heading, mean, 100, 2))
            read = partial(_relative, count=count, severities=severities)
            heading = f"R_C over {count} kinds{label}"
            means = f"the share of the {quality.name} that is left on corrupted images"
            columns.append(Column(f"r_c_{count}{key}", heading, read, 1, 3, means))
        if of_papers:
            continue
        for names in _distinct(tuple(corrupted_cells(r)) for r in records):
            if one and set(_kinds_of_all(records, one)) == set(names):
                continue  # a single severity has a column of its own
            read = partial(_of_run, names=names, severities=severities)
            heading = f"{quality.changed}, mean of {_named(names)}{label}, %"
            columns.append(Column(f"corrupted_run {','.join(names)}{key}", heading, read, 100, 2))
    return columns


def _kinds_of_all(records: Sequence[Record], severity: str) -> list[str]:
    """The kinds whose mean the column of a severity is; none where runs differ in them."""
    own = [_kinds(r, extra=False) for r in records if severity_mean(r, severity) is not None]
    return own[0] if own and all(set(kinds) == set(own[0]) for kinds in own) else []


def _named(names: Sequence[str]) -> str:
    """A few kinds by name, of many their number."""
    few = ", ".join(n.replace("_", " ") for n in names)
    return few if len(names) <= 3 else f"{len(names)} kinds"


def _by_severity(records: Sequence[Record]) -> list[Column]:
    columns, quality = [], _quality(records)
    counts = sorted({len(_kinds(r, extra=False)) for r in records} - {0})
    many = "1 kind" if counts == [1] else f"{' or '.join(map(str, counts))} kinds"
    for severity in severities_of(records):
        kinds = _named(_kinds_of_all(records, severity)) or many
        for family, said, extra in (
            ("corrupted", kinds, False),
            ("corrupted_19", f"{_PAPERS[1]} kinds", True),
        ):
            read = partial(severity_mean, severity=severity, extra=extra)
            label = f"{quality.changed}, {said}, severity {severity}, %"
            columns.append(Column(f"{family} {severity}", label, read, 100, 2))
    return columns


def _errors(records: Sequence[Record]) -> list[Column]:
    """mCE beside the dense network; `align` leaves out other references."""
    columns = []
    for severities in _distinct(_severities(r) for r in records):
        key, label = _at(severities)
        there = [
            count
            for count in (*_PAPERS, "run")
            if any(_error(r, f"mce_{count}", severities) is not None for r in records)
        ]
        for count in [count for count in there if count != "run"] or there:
            kinds = "the kinds that were run" if count == "run" else f"{count} kinds"
            for name, said in (("mce", "mCE"), ("relative_mce", "Relative mCE")):
                read = partial(_error, name=f"{name}_{count}", severities=severities)
                heading = f"{said} beside dense, {kinds}{label}, %"
                means = (
                    "the errors under corruption over those of the dense network; less is better"
                )
                columns.append(Column(f"{name}_{count}{key}", heading, read, 1, 1, means))
    return columns


def _error(record: Record, name: str, severities: Sequence[str]) -> float | None:
    value = number(record, f"{_RESULT}.beside.{name}")
    return None if value is None or _severities(record) != tuple(severities) else 100 * value


def _new_images(records: Sequence[Record]) -> list[Column]:
    """Accuracy and R_V2 of each variant; never their mean."""
    names = in_order(list({name for r in records for name in _variants(r)}))
    columns = []
    for name in names:
        read: Callable[[Record], float | None] = partial(_variant, name=name)
        columns += [
            Column(f"shifted {name}", f"New images, {name}, %", read, 100, 2),
            Column(f"r_v2 {name}", f"R_V2, {name}", partial(_r_v2, name=name), 1, 3),
        ]
    return columns


def _variants(record: Record) -> dict[str, float]:
    """Variant -> accuracy; older results have the folders' names."""
    variants = find(record, "evaluations.shifted.variants")
    return {
        variant_of(str(name)): float(share)
        for name, share in (variants.items() if isinstance(variants, Mapping) else ())
    }


def _variant(record: Record, name: str) -> float | None:
    return _variants(record).get(name)


def _r_v2(record: Record, name: str) -> float | None:
    share, clean = _variant(record, name), number(record, "evaluations.shifted.clean")
    return None if share is None or clean is None else share / clean if clean else 0.0


def _distinct(values: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [value for value in dict.fromkeys(values) if value]
