"""How large an input is, whatever reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from steppe.core.protocols import Score


@Score.registry.register("activation_norm")
@dataclass(frozen=True, kw_only=True)
class ActivationNorm(Score):
    """sqrt(E[x_j^2]) of the input that a weight reads; the weight itself does not count.

    Among single weights all that read one input are equal; it is for structures whose units are
    whole inputs.

    Source: the first stage of 2SSP (Sandri et al. 2025, arXiv 2501.17771), which takes the mean of
    such norms over windows.
    """

    name = "activation_norm"
    calibrated = True
    needs = ("activation_square",)

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return stats["activation_square"].sqrt().expand(weight.shape)
