"""The protocol of the score axis: what matters?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group, Slice
from steppe.core.part import Part, axis

if TYPE_CHECKING:
    from steppe.method import Method


class Score(Part):
    """What matters? A signed saliency per weight; the library ranks by its absolute value."""

    registry = axis("score")
    needs: ClassVar[tuple[str, ...]] = ()
    """Names of the statistics that `score` reads (see `steppe.core.statistic`)."""
    compensates: ClassVar[bool] = False
    """Whether it knows how kept weights make up for the others, see `compensate`."""
    calibrated: ClassVar[bool] = False
    """Whether it reads what calibration alone knows (`steppe.core.calibration_statistics`), so that
    no loop of steps can rank by it."""

    def fits(self, method: Method) -> None:
        if self.calibrated and method.objective.scope == "task":
            raise SteppeError(
                f"score {self.name} is known of calibrated layers only",
                got=f"objective {method.objective.name}, of a loop of steps",
                way_out="objective layer_reconstruction; or score wanda",
            )

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        """Saliency of each weight, of the weight's shape; its sign does not matter.

        Args:
            weight: any shape; the weights, or ADMM's x + u.
            stats: statistic name -> tensor, of the shape that the statistic gives it
                (`steppe.core.statistic.Statistic.shape`): most broadcast over ``weight``.
            key: the weight's name, a constant that random scores derive their seed from.
        """
        raise NotImplementedError

    def compensate(
        self, weight: Tensor, keep: Tensor, stats: Mapping[str, Tensor], key: str
    ) -> Tensor:
        """The weight with zeros where ``keep`` is False, the rest changed to make up for them.

        Args:
            weight: any shape; what went earlier is zero already.
            keep: booleans of its shape.
            stats, key: as of `score`.
        """
        raise NotImplementedError

    def reduce(self, groups: Tensor) -> Tensor:
        """``[..., size]`` saliencies of the members of groups -> ``[...]``, one per group."""
        return groups.squeeze(-1) if groups.shape[-1] == 1 else groups.norm(dim=-1)

    def for_network(
        self, model: nn.Module, whole_outputs: bool, groups: Sequence[Group]
    ) -> tuple[Score, list[str]]:
        """The score that ranks the units of a network, and sentences on what it cannot see.

        Itself for most; one whose formula depends on what follows a layer chooses here.

        Args:
            model: not wrapped.
            whole_outputs: whether the units are whole channels, of single layers or coupled.
            groups: the coupled channels that are ranked, if any.

        Raises:
            SteppeError: it means nothing on any of these units.
        """
        return self, []

    def reads(self, part: Slice) -> bool:
        """Whether coupled channels are scored by that part of them; their weights, by default."""
        return part.role == "output"

    def members(self, group: Group, saliencies: Mapping[str, Tensor]) -> Tensor:
        """``[units, members]`` of what it `reads`: reduced to one number for each channel."""
        saliencies_read = [s.rows(saliencies[s.name]) for s in group.slices if self.reads(s)]
        if not saliencies_read:
            raise SteppeError(
                f"score {self.name} reads what this group of channels does not have",
                got=group.name,
                way_out="choose another score, or exclude the layer",
            )
        return torch.cat(saliencies_read, dim=1)
