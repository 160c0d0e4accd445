"""What a network costs with so many channels left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Cost(Protocol):
    """Parameters, FLOPs or time of a network as a function of its groups' widths."""

    unit: str
    """What it counts: parameters, FLOPs, ms."""

    def total(self, kept: Mapping[str, int]) -> float:
        """The cost of the whole network.

        Args:
            kept: group name -> units that stay; a group that is not named is kept whole.

        Raises:
            SteppeError: a width was never measured.
        """
        ...
