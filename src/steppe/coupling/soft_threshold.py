"""Each layer learns the threshold below which its weights are zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.protocols import Coupling
from steppe.coupling.reparam.parametrized import Parametrized


@Coupling.registry.register("soft_threshold")
@dataclass(frozen=True, kw_only=True)
class SoftThreshold(Parametrized):
    """x = sign(v) max(|v| - sigmoid(s), 0), with one trained s for each layer.

    **How many are zero is an outcome**: the optimiser's weight decay, which acts on v and s, drives
    the thresholds up. At the end what the method's sparsity asks for beyond that goes, the smallest
    first; if more are zero already, they stay so. An s far below zero has no gradient (sigmoid
    underflows), only its weight decay moves it at first.

    Args:
        start: s at the beginning.

    Source: STR, Kusupati et al., ICML 2020; their ImageNet recipe starts at -3200, their CIFAR
    and recurrent ones between -10 and -5.
    """

    start: float = -10.0
    name = "soft_threshold"
    parts = ("v", "s")
    thresholds = ("s",)

    def __post_init__(self) -> None:
        if not -1e30 < self.start < 1e30:
            raise SteppeError("soft_threshold needs a finite start", got=self.start)

    def split(self, weight: Tensor) -> tuple[Tensor, ...]:
        start = torch.full((), self.start, dtype=weight.dtype, device=weight.device)
        # so far out that nothing changes at first
        return weight.detach() + weight.detach().sign() * torch.sigmoid(start), start

    def join(self, *parts: Tensor) -> Tensor:
        v, s = parts
        t = torch.sigmoid(s)
        return v - torch.clamp(v, -t, t)  # the same, without negative zeros
