"""First-order change of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError, unknown
from steppe.core.group import Group, Slice
from steppe.core.protocols import Score
from steppe.score.channel_norms import gates_of, require_gates
from steppe.score.filter_sums import said_of_filter_sums

if TYPE_CHECKING:
    from steppe.method import Method

NEEDS = {
    "auto": "gradient",  # of single weights; where channels go, `for_network` chooses another
    "gate": "gate_square",
    "gate_absolute": "gate_absolute",
    "elementwise": "absolute_product",
    "elementwise_squared": "product_square",
    "mean": "gradient",
    "squared": "output_square",
    "absolute": "output_absolute",
}
GATES = ("gate", "gate_absolute")
SUMS = ("mean", "squared", "absolute")
"""Variants that sum g w over all weights of a channel: zero in front of a norm."""


@Score.registry.register("taylor")
@dataclass(frozen=True, kw_only=True)
class Taylor(Score):
    """The loss change to first order when a channel, a block or a weight goes.

    Literature and code call many things by this name, which rank differently. z is a gate of 1 on
    the output of the norms behind a channel, dL/dz = gamma dL/dgamma + beta dL/dbeta:

    - ``auto``: for whole channels ``gate`` where a norm follows and ``elementwise_squared``
      elsewhere; for single weights and blocks ``mean``.
    - ``gate``: E[(dL/dz)^2] (Molchanov et al., Taylor-FO-BN); of channels that several layers
      compute together, z gates all of them.
    - ``gate_absolute``: E|dL/dz| (HALP).
    - ``elementwise_squared``: sum E[(g w)^2]; nothing cancels.
    - ``elementwise``: sum E|g w|; nothing cancels (Torch-Pruning).
    - ``mean``: |sum E[g] w|. Batches that pull to opposite sides cancel.
    - ``squared``: E[(sum g w)^2], the sum over one channel in one batch.
    - ``absolute``: E|sum g w|.

    The last three sum over a whole filter where channels go. A norm behind it that estimates its
    statistics from the batch makes this sum zero, so that they rank rounding errors: where norms
    follow all channels they are refused, where some follow it is said.

    Args:
        variant: see above.

    Source: Molchanov et al. 2019.

    Example:
        >>> Taylor(variant="squared").needs
        ('output_square',)
    """

    variant: str = "auto"
    name = "taylor"
    needs = ("gradient",)

    def __post_init__(self) -> None:
        if self.variant not in NEEDS:
            raise unknown("variant of taylor", self.variant, NEEDS)
        # each variant gathers its own statistic
        object.__setattr__(self, "needs", (NEEDS[self.variant],))

    def fits(self, method: Method) -> None:
        of_channels = (*GATES, "squared", "absolute")
        if self.variant in of_channels and not method.structure.whole_outputs:
            raise SteppeError(
                f"variant {self.variant} of taylor scores whole channels",
                got=f"structure {method.structure.name}",
                way_out="structure='channel', or variant auto, mean or elementwise",
            )

    def for_network(
        self, model: nn.Module, whole_outputs: bool, groups: Sequence[Group]
    ) -> tuple[Score, list[str]]:
        if not whole_outputs:
            return self, []
        if self.variant in GATES:
            require_gates(f"variant {self.variant} of taylor", model, groups)
        if self.variant in SUMS:
            return self, said_of_filter_sums(f"variant {self.variant} of taylor", model, groups)
        if self.variant != "auto":
            return self, []
        modules = dict(model.named_modules())
        gates = frozenset(name for group in groups for name in gates_of(modules, group))
        if not gates:
            return Taylor(variant="elementwise_squared"), []
        without = [g for g in groups if not gates_of(modules, g)]
        layers = frozenset(s.name for g in without for s in g.slices if s.role == "output")
        return _GateOrSquares(gates=gates, layers=layers), []

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        (need,) = self.needs
        value = stats[need]
        if need == "gradient":
            return weight * value
        # spread evenly over what shares it, so that the sum is the value again
        return (value * (value.numel() / weight.numel())).expand(weight.shape)

    def reduce(self, groups: Tensor) -> Tensor:
        return groups.sum(-1)

    def reads(self, part: Slice) -> bool:
        if self.variant not in GATES:
            return super().reads(part)
        # the scales' values hold the shifts' share already
        return part.role == "norm" and part.name.endswith("weight")


@dataclass(frozen=True, kw_only=True)
class _GateOrSquares(Taylor):
    """What auto is where norms follow some of the channels, or all.

    Args:
        gates: the scales of norms whose values count.
        layers: the weights of channels without a norm, whose values count there.
    """

    gates: frozenset[str] = frozenset()
    layers: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", ("gate_or_squares",))

    def reads(self, part: Slice) -> bool:
        return part.name in self.gates | self.layers

    def members(self, group: Group, saliencies: Mapping[str, Tensor]) -> Tensor:
        gates = [s for s in group.slices if s.name in self.gates]
        read = gates or [s for s in group.slices if s.role == "output"]
        return torch.cat([s.rows(saliencies[s.name]) for s in read], dim=1)
