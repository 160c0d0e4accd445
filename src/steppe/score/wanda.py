"""Weight times the norm of its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from steppe.core.layer import Layer
from steppe.core.protocols import Score
from steppe.core.statistic import STATISTICS
from steppe.score.input_squares import Reading, squares_of
from steppe.score.input_statistic import InputStatistic


@Score.registry.register("wanda")
@dataclass(frozen=True, kw_only=True)
class Wanda(Score):
    """|w_ij| ||x_j||_2 with the norm averaged over samples. Source: Sun et al. 2024, eq. 1."""

    name = "wanda"
    needs = ("activation_square",)

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return weight * stats["activation_square"].sqrt()


@STATISTICS.register("activation_square")
class ActivationSquare(InputStatistic):
    """E[x_j^2] of each input j, shaped to broadcast over the weight (Sun et al. 2024).

    For a convolution j is an input channel: borders aside, every kernel position sees it.
    Grouped convolutions take each group's own inputs. The recurrent weights of an LSTM read the
    states of the step before, the projections of attention queries, keys, values and heads.
    """

    name = "activation_square"

    @classmethod
    def reading(cls, layer: Layer, module: nn.Module) -> Reading | None:
        return squares_of(layer, module)
