"""What a record holds of corrupted images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steppe.report.quality import QUALITIES, Quality
from steppe.report.record import Record, find, number

CORRUPTED = "evaluations.corruptions"


def corrupted_cells(record: Record) -> dict[str, dict[str, float]]:
    """Corruption -> severity -> accuracy, or of a detector mean precision."""
    quality = corrupted_quality(record)
    kinds = quality and find(record, f"{CORRUPTED}.{quality.key}")
    return {
        str(name): {str(s): float(v) for s, v in cells.items()}
        for name, cells in (kinds.items() if isinstance(kinds, Mapping) else ())
        if isinstance(cells, Mapping)
    }


def corrupted_quality(record: Record) -> Quality | None:
    """What was measured on corrupted images; None where nothing was.

    Example:
        >>> run = {"evaluations": {"corruptions": {"map50": {"fog": {"3": 0.5}}}}}
        >>> corrupted_quality(run).title
        'mAP@0.5'
    """
    shares = (q for q in QUALITIES if q.share)
    return next((q for q in shares if find(record, f"{CORRUPTED}.{q.key}") is not None), None)


def corrupted_clean(record: Record) -> float | None:
    """The same measure on the same images, not corrupted."""
    quality = corrupted_quality(record)
    return None if quality is None else number(record, f"{CORRUPTED}.{quality.clean}")


def severities_of(records: Sequence[Record]) -> list[str]:
    """The severities that any network was measured at, ascending."""
    return sorted({s for r in records for cells in corrupted_cells(r).values() for s in cells})
