"""Norms and biases alone."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

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
    lr_of_whole = 1e-2

    @classmethod
    def chosen(cls, parameters: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
        return [p for p in parameters.values() if p.ndim < 2]
