"""How much was pruned, and of what: zeros, or what is gone with the channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from steppe.report.record import REMOVED, Record, display, find, is_dense, sparsity_of

ZEROS = "zeros"
FEWER = {
    "parameters": "fewer parameters",
    "flops": "fewer multiply-adds",
    "latency": "less latency",
    "channels": "fewer channels",
}
"""What a recipe's channels.target counts, of which a share is gone."""
IN_BLOCKS = "fewer parameters in the blocks"
"""Of a language model whose shapes are smaller: its embeddings and its head are not counted."""


@dataclass(frozen=True, order=True)
class Level:
    """What was asked of a run; two of different kinds are never the same.

    Args:
        counted: of what a share is gone.
        share: the fraction.

    Example:
        >>> Level("fewer multiply-adds", 0.4).text, Level("zeros", 0.995).percent
        ('40 % fewer multiply-adds', '99.5 %')
    """

    counted: str
    share: float

    @property
    def percent(self) -> str:
        """The share alone: only beside what says of what it is."""
        return f"{100 * self.share:.6g} %"

    @property
    def text(self) -> str:
        """The share, and of what."""
        return f"{self.percent} {self.counted}"


def level_of(record: Record) -> Level | None:
    """How much was pruned; None of a dense run, and where the record does not say.

    Example:
        >>> recipe = {"channels": {"target": "latency"}}
        >>> level_of({"sparsity_asked": 0.4, "recipe": recipe}).text
        '40 % less latency'
        >>> level_of({"sparsity_asked": 0.9}).text
        '90 % zeros'
    """
    share = None if is_dense(record) else sparsity_of(record)
    return None if share is None else Level(_counted(record), share)


def _counted(record: Record) -> str:
    target = find(record, "recipe.channels.target")
    if target is not None:
        return FEWER.get(str(target), f"fewer {target}")
    if find(record, "removed.units") is not None:
        return IN_BLOCKS
    past = record.get("pruning")  # what is recovered is as sparse as it was
    return _counted(past) if isinstance(past, Mapping) and past else ZEROS


def at(level: Level | None) -> str:
    """The end of a title: at which level; nothing where it is not known."""
    return "" if level is None else f" at {level.text}"


def after(name: str, level: Level | None, among: Iterable[Level | None] = ()) -> str:
    """A network's name with its level behind it.

    Args:
        name: of it.
        level: of it.
        among: those of all that stand beside it: where they count the same, `meaning` says what.

    Example:
        >>> less, fewer = Level("less latency", 0.4), Level("fewer multiply-adds", 0.6)
        >>> after("HALP", less, [less]), after("HALP", less, [less, fewer])
        ('HALP 40 %', 'HALP 40 % less latency')
    """
    if level is None:
        return name
    return f"{name} {level.percent if len(kinds(among)) == 1 else level.text}".lstrip()


def meaning(among: Iterable[Level | None]) -> str:
    """What the percentages behind names count, for a caption; "" where each name says it."""
    counted = kinds(among)
    return f" Percentages behind names: {counted[0]}." if len(counted) == 1 else ""


def highest(records: Sequence[Record]) -> Level | None:
    """The level that most methods share; of several, the highest.

    What steppe remove made of a run is no other method.
    """
    methods: dict[Level, set[str]] = {}
    for record in records:
        if (level := level_of(record)) is not None:
            methods.setdefault(level, set()).add(display(record).removesuffix(REMOVED))
    return max(methods, key=lambda one: (len(methods[one]), one.share), default=None)


def kinds(levels: Iterable[Level | None]) -> list[str]:
    """What levels count, each once, as they come."""
    return list(dict.fromkeys(level.counted for level in levels if level is not None))


def listed(levels: Iterable[Level | None]) -> str:
    """All levels in words, those of one kind together.

    Example:
        >>> listed([Level("zeros", 0.5), Level("less latency", 0.4), Level("zeros", 0.9)])
        '50 %, 90 % zeros; 40 % less latency'
    """
    known = [level for level in levels if level is not None]
    return "; ".join(
        ", ".join(one.percent for one in sorted(set(known)) if one.counted == kind) + f" {kind}"
        for kind in kinds(known)
    )
