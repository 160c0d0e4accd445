"""What is known of a smaller model while it is open which of several shapes it will have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from steppe.core.errors import SteppeError
from steppe.llm.structured.latency import WHICH, GenerationTable, Times
from steppe.llm.structured.shape import Shape

KINDS = ("blocks", "neurons", "heads")


def offered(
    offers: Sequence[Shape], priced: Shape, table: GenerationTable | None = None
) -> dict[str, Any]:
    """The least and the most of everything.

    Args:
        offers: the shapes, one at least.
        priced: see `steppe.llm.structured.cut_sizes.in_bytes`.
        table: of the whole model; the times of shapes are left out whose widths it has not.

    Returns:
        ``count``; ``blocks``, ``neurons``, ``heads``, ``parameters``, ``bytes``, and with a table
        ``prompt_ms``, ``token_ms``, ``total_ms``, each as the least and the most; ``timed``: of how
        many shapes the table knows the times.
    """
    counts = [{kind: int(getattr(shape, kind)) for kind in KINDS} for shape in offers]
    known: dict[str, Any] = {"count": len(offers)}
    known |= {kind: _ends(own[kind] for own in counts) for kind in KINDS}
    known["parameters"] = _ends(shape.parameters for shape in offers)
    known["bytes"] = _ends(priced.resized(**own).bytes for own in counts)
    if table is not None:
        times = [own for shape in offers if (own := _times(table, shape)) is not None]
        known["timed"] = len(times)
        for which in (*WHICH, "total") if times else ():
            known[f"{which}_ms"] = _ends(getattr(own, which) for own in times)
    return known


def _ends(values: Iterable[Any]) -> list[Any]:
    every = list(values)
    return [min(every), max(every)]


def _times(table: GenerationTable, shape: Shape) -> Times | None:
    try:
        return table.times(shape)
    except SteppeError:
        if any(not a[0] <= getattr(shape, k) <= a[-1] for k, a in table.axes.items()):
            return None  # narrower than what was measured
        raise


def between(ends: Sequence[Any], form: str = "{:,}") -> str:
    """The least and the most in words, or the one that there is.

    Example:
        >>> between([1200, 3400]), between([7, 7])
        ('1,200 to 3,400', '7')
    """
    return " to ".join(dict.fromkeys(form.format(end) for end in ends))


def said_of(known: dict[str, Any]) -> str:
    """The shapes in words.

    Args:
        known: see `offered`.

    Example:
        >>> said_of({"count": 3, "blocks": [2, 4], "neurons": [9, 12], "heads": [0, 0]})
        'one of 3 shapes, with 2 to 4 blocks, 9 to 12 neurons'
    """
    kinds = [f"{between(known[kind])} {kind}" for kind in KINDS if known[kind][1]]
    return f"one of {known['count']} shapes, with {', '.join(kinds)}"
