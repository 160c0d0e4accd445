"""Which texts, each at which share of what is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steppe.core.errors import SteppeError


@dataclass(frozen=True)
class Weighted:
    """A source of text.

    Args:
        source: see `steppe.llm.text.read`.
        share: of the windows that are drawn, in (0, 1].
    """

    source: str
    share: float


def mixture(given: str | Path | Sequence[str | Path]) -> tuple[Weighted, ...]:
    """The sources of a mixture; their shares are their weights over the sum of all.

    Args:
        given: one source; ``"a.txt=0.7,b.txt=0.3"``; or a list of sources with weights. What is a
            file or folder by all of its name is one source.

    Returns:
        The sources, in order.

    Raises:
        SteppeError: a weight is missing, no number, or not positive; or a source comes twice.

    Example:
        >>> [(x.source, round(x.share, 2)) for x in mixture("a.txt=3,b.txt=1")]
        [('a.txt', 0.75), ('b.txt', 0.25)]
        >>> mixture("a.txt")
        (Weighted(source='a.txt', share=1.0),)
    """
    if isinstance(given, str | Path):
        text = str(given)
        whole = Path(text).exists() or "=" not in text
        parts = [text] if whole else [part.strip() for part in text.split(",")]
    else:
        parts = [str(part) for part in given]
    if not parts:
        raise SteppeError("a mixture needs a text at least", got="none", way_out='"a.txt=1"')
    pairs = [(parts[0], 1.0)] if len(parts) == 1 and _plain(parts[0]) else map(_pair, parts)
    named = list(pairs)
    names = [name for name, _ in named]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SteppeError(
            "each text comes once in a mixture",
            got=f"{twice[0]} twice",
            way_out="add the weights of both",
        )
    total = sum(weight for _, weight in named)
    return tuple(Weighted(name, weight / total) for name, weight in named)


def _plain(part: str) -> bool:
    return Path(part).exists() or "=" not in part


def _pair(part: str) -> tuple[str, float]:
    name, _, number = part.rpartition("=")
    try:
        weight = float(number) if name else math.nan
    except ValueError:
        weight = math.nan
    if not name or math.isnan(weight):
        raise SteppeError(
            "each text of a mixture has a weight after an equals sign",
            got=part,
            way_out=f'"{name or part}=0.5", and so for the others',
        )
    if not 0 < weight < math.inf:
        raise SteppeError(
            "the weight of a text in a mixture is a positive number",
            got=part,
            way_out=f'"{name}=0.5", or leave that text out',
        )
    return name, weight
