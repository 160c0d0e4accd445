"""First-order change of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from steppe.core.errors import SteppeError, unknown
from steppe.core.protocols import Score

if TYPE_CHECKING:
    from steppe.method import Method

NEEDS = {
    "mean": "gradient",
    "squared": "output_square",
    "absolute": "output_absolute",
    "elementwise": "absolute_product",
}


@Score.registry.register("taylor")
@dataclass(frozen=True, kw_only=True)
class Taylor(Score):
    """|sum over the group of E[g] w|, the loss change to first order.

    Literature and code call four things by this name, which rank differently:

    - ``mean``: |sum E[g] w|. Batches that pull to opposite sides cancel.
    - ``squared``: E[(sum g w)^2], the sum over one channel in one batch (Molchanov et al.).
    - ``absolute``: E|sum g w| (HALP).
    - ``elementwise``: sum E|g w|; nothing cancels (Torch-Pruning).

    ``squared`` and ``absolute`` are of whole channels, at the weights of each step; channels that
    several layers compute together count with the sum of the layers' values.

    Args:
        variant: mean, squared, absolute or elementwise.

    Source: Molchanov et al. 2019.

    Example:
        >>> Taylor(variant="squared").needs
        ('output_square',)
    """

    variant: str = "mean"
    name = "taylor"
    needs = ("gradient",)

    def __post_init__(self) -> None:
        if self.variant not in NEEDS:
            raise unknown("variant of taylor", self.variant, NEEDS)
        # each variant gathers its own statistic
        object.__setattr__(self, "needs", (NEEDS[self.variant],))

    def fits(self, method: Method) -> None:
        if self.variant in ("squared", "absolute") and not method.structure.whole_outputs:
            raise SteppeError(
                f"variant {self.variant} of taylor scores whole channels",
                got=f"structure {method.structure.name}",
                way_out="structure='channel', or variant mean or elementwise",
            )

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        value = stats[NEEDS[self.variant]]
        if self.variant == "mean":
            return weight * value
        # spread evenly over what shares it, so that the sum is the value again
        return (value * (value.numel() / weight.numel())).expand(weight.shape)

    def reduce(self, groups: Tensor) -> Tensor:
        return groups.sum(-1)
