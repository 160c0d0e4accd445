"""What the records say, in plain sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import hypot

from steppe.report.column import Cell
from steppe.report.image_columns import mean_key
from steppe.report.quality import share_among
from steppe.report.record import Record
from steppe.report.table import Row, Rows

LEVEL = 0.005  # half a point: closer than this is level, whatever the error


def verdicts(records: Sequence[Record]) -> list[str]:
    """Who is level with dense, who leads, is flatter, and loses least to changed images.

    Two accuracies, or mean precisions, are level when they differ by at most 0.5 points or by at
    most one standard error of the difference, ``sqrt(se_a^2 + se_b^2)``.

    Args:
        records: as `Rows.from_records` takes them.

    Returns:
        Sentences, ordered by sparsity; also where SAFE is behind, and what could not be said.

    Example:
        >>> dense = {"accuracy": 0.97}
        >>> runs = [{"method": m, "seed": 0, "sparsity_asked": 0.95, "dense": dense,
        ...          "sparse": {"accuracy": a}} for m, a in (("safe", 0.968), ("gmp", 0.92))]
        >>> for line in verdicts(runs): print(line)
        At 95 % zeros, level with dense (97.00 %): SAFE (96.80 %). Below it: GMP (92.00 %, −5.00).
        At 95 % zeros SAFE beats GMP: 96.80 % against 92.00 %, 4.80 points.
        Level: less than half a point apart, or than one standard error of the difference.
        One seed per point: no error bars, so small differences may be chance.
    """
    rows = Rows.from_records(records)
    quality = share_among([column.key for column in rows.columns])
    sparse = [r for r in rows.rows if r.method != "dense"]
    if not sparse:
        return ["No sparse run among the records: nothing to compare."]
    if not any(r.cells[quality.key] for r in sparse):
        sentences = [
            "No record of a sparse network holds an accuracy or a mean precision: methods are not "
            "compared on it."
        ]
    else:
        sentences = []
    dense = next((r.cells[quality.key] for r in rows.rows if r.method == "dense"), None)
    for where in dict.fromkeys(r.level for r in sparse):
        group = [r for r in sparse if r.level == where]
        scored = [(r, c) for r in group if (c := r.cells[quality.key]) is not None]
        scored.sort(key=lambda pair: -pair[1].mean)
        place = "At unknown sparsity" if where is None else f"At {where.text}"
        sentences += _against_dense(place, scored, dense) + _leader(place, scored)
        sentences += _safe_against_gmp(place, scored) + _flatter(place, group)
        sentences += _sturdier(place, group, rows)
    if dense is None and any(r.cells[quality.key] for r in sparse):
        sentences.append(
            f"No record holds the dense network's {quality.name}: nothing is compared with it."
        )
    if any(re.search(r"(?<!none is )level with|too little", text) for text in sentences):
        sentences.append(
            "Level: less than half a point apart, or than one standard error of the difference."
        )
    if all(r.seeds == 1 for r in sparse):
        sentences.append("One seed per point: no error bars, so small differences may be chance.")
    return sentences


def _error(a: Cell, b: Cell) -> float:
    return hypot(a.error or 0.0, b.error or 0.0)


def _level(a: Cell, b: Cell) -> bool:
    # a hair of slack, so that 0.5 points computed as 0.5000000001 are level
    return abs(a.mean - b.mean) <= max(LEVEL, _error(a, b)) + 1e-9


def _percent(cell: Cell) -> str:
    error = f" ± {100 * cell.error:.2f}" if cell.error is not None else ""
    return f"{100 * cell.mean:.2f}{error} %"


def _points(value: float) -> str:
    return f"{'+' if value >= 0 else '−'}{abs(100 * value):.2f}"


def _against_dense(place: str, scored: list[tuple[Row, Cell]], dense: Cell | None) -> list[str]:
    if dense is None or not scored:
        return []
    parts: dict[str, list[str]] = {"above": [], "level": [], "below": []}
    for row, cell in scored:
        gap = cell.mean - dense.mean
        kind = "level" if _level(cell, dense) else "above" if gap > 0 else "below"
        by = "" if kind == "level" else f", {_points(gap)}"
        parts[kind].append(f"{row.display} ({_percent(cell)}{by})")
    told = [kind for kind in ("level", "above", "below") if parts[kind]]
    if told[0] == "below":
        text = f"{place} none is level with dense ({_percent(dense)})."
    else:
        first = {"level": "level with dense", "above": "above dense"}[told[0]]
        text = f"{place}, {first} ({_percent(dense)}): {', '.join(parts[told.pop(0)])}."
    return ["".join([text, *(f" {kind.title()} it: {', '.join(parts[kind])}." for kind in told)])]


def _leader(place: str, scored: list[tuple[Row, Cell]]) -> list[str]:
    if len(scored) < 2 or {r.method.lower() for r, _ in scored[:2]} == {"safe", "gmp"}:
        return []  # SAFE against GMP has a sentence of its own
    (first, best), *rest = scored
    equal = [r.display for r, c in rest if _level(best, c)]
    name = first.display
    if equal:
        return [f"{place} {name} is first, level with {', '.join(equal)}."]
    second, next_best = rest[0]
    gap = 100 * (best.mean - next_best.mean)
    return [f"{place} {name} leads; next is {second.display}, {gap:.2f} points behind."]


def _safe_against_gmp(place: str, scored: list[tuple[Row, Cell]]) -> list[str]:
    pair = [(r, c) for r, c in scored if r.method.lower() in ("safe", "gmp")]
    if len(pair) != 2:
        return []
    (ahead, a), (behind, b) = pair  # the better one first
    first, second = ahead.display, behind.display
    gap = f"{_percent(a)} against {_percent(b)}, {100 * (a.mean - b.mean):.2f} points"
    lead = "leads and " if pair[0] == scored[0] and len(scored) > 2 else ""
    if a.mean == b.mean:
        return [f"{place} {first} and {second} are equal: {_percent(a)}."]
    if not _level(a, b):
        return [f"{place} {first} {lead}beats {second}: {gap}."]
    return [f"{place} {first} is ahead of {second} by too little to call: {gap}."]


def _flatter(place: str, group: Sequence[Row]) -> list[str]:
    rows = {r.method.lower(): r for r in group}
    if "safe" not in rows or "admm" not in rows:
        return []
    claims = []
    for key, name in (("hessian_top", "top Hessian eigenvalue"), ("sharpness", "sharpness")):
        safe, admm = rows["safe"].cells[key], rows["admm"].cells[key]
        if safe is None or admm is None:
            continue
        verb = "is below" if safe.mean < admm.mean else "is NOT below"
        text = f"{name} {verb} ADMM's: {safe.mean:.3g} against {admm.mean:.3g}"
        low, high = sorted((safe.mean, admm.mean))
        if low > 0 and high >= 1.05 * low:
            text += f" ({high / low:.2g} times {'lower' if safe.mean == low else 'higher'})"
        if abs(safe.mean - admm.mean) <= _error(safe, admm):
            text += ", within one standard error"
        claims.append(text)
    return [f"{place} SAFE's {'; its '.join(claims)}."] if claims else []


def _sturdier(place: str, group: Sequence[Row], rows: Rows) -> list[str]:
    """All methods, best first: on corrupted images, and in the smallest ball of each attack."""
    on_corrupted = mean_key(rows.columns)
    keys = {on_corrupted: "on corrupted images"} if on_corrupted else {}
    for column in rows.columns:
        norm = column.key.split(" ")[0]
        if norm in ("linf", "l2") and not any(key.startswith(norm) for key in keys):
            keys[column.key] = f"under attack ({column.label.split(', ')[1]})"
    dense = next((r for r in rows.rows if r.method == "dense"), None)
    claims = []
    for key, name in keys.items():
        ranked = [(r, c) for r in group if (c := r.cells.get(key)) is not None]
        if not ranked:
            continue
        ranked.sort(key=lambda pair: -pair[1].mean)
        shown = [f"{r.display} {_percent(c)}" for r, c in ranked]
        if len(ranked) > 1 and _level(ranked[0][1], ranked[1][1]):
            shown[:2] = [f"{shown[0]} level with {shown[1]}"]
        own = dense.cells.get(key) if dense is not None else None
        beside = f" (dense {_percent(own)})" if own is not None else ""
        claims.append(f"{name}, {', '.join(shown)}{beside}")
    return [f"{place}, best first {'; '.join(claims)}."] if claims else []
