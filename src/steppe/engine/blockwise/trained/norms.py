"""Norms and biases alone."""

from __future__ import annotations

from torch import nn

from steppe.engine.blockwise.stages import Stage
from steppe.engine.blockwise.trained import TRAINED
from steppe.engine.blockwise.trained.weights import Weights


@TRAINED.register("norms")
class Norms(Weights):
    """The scales and shifts of norms, and the biases where the architecture has them.

    Args:
        stage: a block or a part of it.
        rank, seed: nothing here depends on them.

    Source: Zimmer et al., PERP, arXiv 2312.15230.
    """

    lr = 1e-2

    def _chosen(self, stage: Stage) -> list[nn.Parameter]:
        return [p for p in super()._chosen(stage) if p.ndim < 2]
