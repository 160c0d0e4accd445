"""The protocol of the budget axis: how much, where?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from steppe.core.cost import Cost
from steppe.core.cost_target import meet_cost
from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.layer import Layer
from steppe.core.part import Part, Tensors, axis
from steppe.core.selection import apportion, keep_largest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget(Part):
    """How much, where? Chooses exactly so many units among the layers."""

    sparsity: float
    """The fraction of units to be zero at the end."""
    registry = axis("budget")
    uneven: ClassVar[bool] = False
    """Whether it insists on different sparsities in different layers."""
    layerwise: ClassVar[bool] = True
    """Whether `counts` knows each layer's share before all weights are seen together."""
    profiled_by: ClassVar[str | None] = None
    """The score whose outliers `counts` asks for, or None."""
    meets: ClassVar[bool] = True
    """Whether coupled channels come out at the sparsity; else that is what the scores say."""
    tries: ClassVar[bool] = False
    """Whether coupled channels are tried out, see `steppe.core.search.Searching`."""

    def __post_init__(self) -> None:
        if not isinstance(self.sparsity, int | float) or not 0.0 <= self.sparsity < 1.0:
            raise SteppeError(
                "sparsity must lie in [0, 1)",
                got=repr(self.sparsity),
                way_out="write 0.95 for 95 % zeros",
            )

    @property
    def target(self) -> float:
        """The fraction of units to be zero at the end."""
        return self.sparsity

    def keep(self, units: Tensors, layers: Mapping[str, Layer], prune: int) -> Tensors:
        """Which units stay.

        Args:
            units: layer name -> ``[rows, units per row]`` saliencies, ranked by absolute value.
            layers: layer name -> its shape.
            prune: how many units are zeroed in all.

        Returns:
            layer name -> booleans of the same shape with exactly ``prune`` False in all.
        """
        profile = {n: self.profile(u) for n, u in units.items()} if self.profiled_by else {}
        sizes = {name: u.numel() for name, u in units.items()}
        counts = self.counts(layers, sizes, prune, profile)
        return {name: self.within(u, counts[name]) for name, u in units.items()}

    def counts(
        self,
        layers: Mapping[str, Layer],
        sizes: Mapping[str, int],
        prune: int,
        profile: Mapping[str, float],
    ) -> dict[str, int]:
        """How many units each layer loses, ``prune`` in all; the same fraction by default.

        Args:
            layers: layer name -> its shape.
            sizes: layer name -> number of its units.
            prune: how many units are zeroed in all.
            profile: layer name -> what `profile` said of it; empty unless asked for.
        """
        total = max(sum(sizes.values()), 1)
        return apportion({n: prune * s / total for n, s in sizes.items()}, sizes, prune)

    def within(self, units: Tensor, prune: int) -> Tensor:
        """The units that stay in one layer, ``[rows, units per row]`` booleans."""
        return keep_largest({"": units}, prune)[""]

    def within_cost(
        self, units: Tensors, groups: Sequence[Group], cost: Cost, allowed: float
    ) -> Tensors:
        """Which coupled channels stay (see `fit`): the least salient go, over all layers."""
        return meet_cost(units, groups, cost, allowed)

    def profile(self, units: Tensor) -> float:
        """What `counts` wants to know of a layer's saliencies."""
        return 0.0
