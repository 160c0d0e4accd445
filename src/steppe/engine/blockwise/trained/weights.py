"""All that a stage has left: kept weights, norms and biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from steppe.engine.blockwise.stages import Stage
from steppe.engine.blockwise.trained import TRAINED


@TRAINED.register("weights")
class Weights:
    """Every parameter of the stage; what was zero in a matrix is held by the training.

    Args:
        stage: a block or a part of it.
        rank, seed: nothing here depends on them.
    """

    lr = 3e-3
    lr_of_whole: ClassVar[float | None] = 3e-4

    def __init__(self, stage: Stage, rank: int, seed: int) -> None:
        self.module = stage.module
        self.parameters = self.chosen(stage.parameters())

    @classmethod
    def chosen(cls, parameters: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
        return list(parameters.values())

    def merge(self) -> None:
        """Nothing: the parameters are the module's own."""
