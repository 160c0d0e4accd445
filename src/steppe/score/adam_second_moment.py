"""Weight times the root of Adam's second moment, which knows the curvature of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import Score
from steppe.core.split import part_of
from steppe.core.statistic import STATISTICS, Statistic, WeightMemory


@Score.registry.register("adam_second_moment")
@dataclass(frozen=True, kw_only=True)
class AdamSecondMoment(Score):
    """|v| sqrt(V), V the optimiser's running mean of squared gradients; ranks like V v^2.

    V v^2 / 2 estimates the rise of the loss when v goes, with V as the diagonal of its Hessian.
    Of a weight with which the optimiser has not made a step, it is |v|.

    Source: ELSA (ICLR 2026), its objective-aware projection.
    """

    name = "adam_second_moment"
    needs = ("second_moment",)

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return weight * stats["second_moment"].sqrt()


@STATISTICS.register("second_moment")
class SecondMoment(Statistic):
    """V as it lies in the optimiser: ``exp_avg_sq`` of Adam and its kin, ``square_avg`` of RMSprop.

    The bias of V's zero start is not corrected: it is one factor for all. Gradients are those that
    the optimiser sees, clipped and with the coupling's pull. Quantised ones (8-bit Adam) are read
    as the numbers that they stand for.
    """

    name = "second_moment"
    gathered = False
    elementwise = True

    def prepare(self, modules: dict[str, tuple[Layer, nn.Module]]) -> None:
        self._names = list(modules)

    def remember(self, memory: Callable[[str], WeightMemory]) -> None:
        self._memory = memory
        for name in self._names:
            known = memory(name)
            # SGD and its kin, known by their options before they have made a step
            averages = {"betas", "alpha"} & known.options.keys()
            self._found(known, may_come=bool(averages) or "momentum" not in known.options)

    def value(self, name: str) -> Tensor | None:
        known = self._memory(name)
        self._found(known, may_come=not known.stepped)
        kept = _kept(known)
        return torch.ones(()) if kept is None else kept

    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        """Nothing: the optimiser does."""

    def _found(self, known: WeightMemory, may_come: bool) -> None:
        """Raise SteppeError where the optimiser has no second moment and none will come."""
        if may_come or _kept(known) is not None:
            return
        raise SteppeError(
            "score adam_second_moment reads the optimizer's running mean of squared gradients",
            got=f"{known.optimizer}, which keeps none of each weight",
            way_out="Adam, AdamW or RMSprop; or score magnitude",
        )


def _kept(known: WeightMemory) -> Tensor | None:
    for key in ("exp_avg_sq", "square_avg"):
        value = known.entries.get(key)
        if isinstance(value, Tensor) and tuple(value.shape) == known.shape:
            part = part_of(value)
            return part.dequantize() if "dequantize" in vars(type(part)) else part
    return None
