"""What a network costs as a function of its widths: parameters, multiply-adds, measured time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import nn

from steppe.core.group import Group
from steppe.core.registry import Registry

COSTS: Registry[type[SummedCost]] = Registry("cost", "steppe.removal.cost")


class SummedCost:
    """A cost that is a sum of terms, each of which depends on few groups.

    A subclass says in `groups_of` on which groups each term depends, and computes it in `term`.
    `along` then recomputes only what one group touches.

    Args:
        count: number of terms.
    """

    unit: ClassVar[str]
    tolerance: ClassVar[float] = 0.01

    def __init__(self, count: int) -> None:
        self._touched: dict[str, list[int]] = {}
        for number in range(count):
            for group in set(self.groups_of(number)):
                self._touched.setdefault(group, []).append(number)
        self._count = count

    @classmethod
    def of(
        cls, model: nn.Module, example_inputs: Any, groups: Sequence[Group], **options: Any
    ) -> Self:
        """The cost of a model.

        Args:
            model: with all its channels.
            example_inputs: what it is called with, see `steppe.removal.shapes.layer_shapes`.
            groups: its coupled channels.
            options: of the cost, e.g. ``table`` and ``batch`` of the latency.
        """
        raise NotImplementedError

    def groups_of(self, number: int) -> Iterable[str]:
        """The groups that a term depends on."""
        raise NotImplementedError

    def term(self, number: int, kept: Mapping[str, int]) -> float:
        """One term, with so many units of each group."""
        raise NotImplementedError

    def total(self, kept: Mapping[str, int]) -> float:
        """The cost of the whole network; a group that is not named is kept whole."""
        return sum(self.term(number, kept) for number in range(self._count))

    def along(self, kept: Mapping[str, int], group: str, widths: Sequence[int]) -> list[float]:
        """By how much the total changes when one group gets each of these widths.

        Args:
            kept: group name -> units that stay; a group that is not named is kept whole.
            group: whose width changes; the others stay at ``kept``.
            widths: units of it that stay.

        Returns:
            ``total`` at each width minus ``total(kept)``, at the price of the terms it touches.
        """
        touched = self._touched.get(group, [])
        now = sum(self.term(number, kept) for number in touched)
        changed = dict(kept)
        changes = []
        for width in widths:
            changed[group] = width
            changes.append(sum(self.term(number, changed) for number in touched) - now)
        return changes
