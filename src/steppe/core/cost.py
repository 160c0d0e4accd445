"""What a network costs with so many channels left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from steppe.core.group import Group


class Cost(Protocol):
    """Parameters, multiply-adds or time of a network as a function of its groups' widths."""

    @property
    def unit(self) -> str:
        """What it counts: parameters, multiply-adds, ms."""
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


def most_sparse(cost: Cost, least: Mapping[str, int]) -> str:
    """The largest sparsity that leaves room for widths that have to stay, in words.

    Args:
        cost: of the network.
        least: group name -> the fewest units that stay.

    Example:
        >>> import torch
        >>> from steppe.core.group import Slice
        >>> part = Slice("conv.weight", 0, torch.arange(8).view(8, 1), "output")
        >>> most_sparse(Units([Group("conv", (part,))]), {"conv": 3})
        'a sparsity of at most 0.625'
    """
    share = 1.0 - cost.total(least) / cost.total({})
    return f"a sparsity of at most {math.floor(1000 * max(share, 0.0)) / 1000:g}"


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
