"""What a network costs with so many channels left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from steppe.core.group import Group


class Cost(Protocol):
    """Parameters, FLOPs or time of a network as a function of its groups' widths."""

    @property
    def unit(self) -> str:
        """What it counts: parameters, FLOPs, ms."""
        ...

    @property
    def tolerance(self) -> float:
        """How far below what is allowed a network may end, as a share of it."""
        ...

    def total(self, kept: Mapping[str, int]) -> float:
        """The cost of the whole network.

        Args:
            kept: group name -> units that stay; a group that is not named is kept whole.

        Raises:
            SteppeError: a width was never measured.
        """
        ...


@dataclass(frozen=True)
class Units:
    """The number of units: what is counted where nothing else is asked for.

    Args:
        groups: of the network.
    """

    groups: Sequence[Group]
    unit: str = "channels"
    tolerance: float = 0.01

    def total(self, kept: Mapping[str, int]) -> float:
        """The units that stay."""
        return float(sum(kept.get(g.name, g.units) for g in self.groups))
