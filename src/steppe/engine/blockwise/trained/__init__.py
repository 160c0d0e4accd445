"""What of a pruned block is trained: all that is left, norms and biases, or low-rank adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from torch import nn

from steppe.core.registry import Registry
from steppe.engine.blockwise.stages import Stage


class Trained(Protocol):
    """What is trained of one stage of a block, in which zeros stay zeros.

    Args:
        stage: its own parameters require no gradient yet.
        rank: of adapters, where there are any.
        seed: of what begins at random.
    """

    lr: ClassVar[float]
    """Its usual peak learning rate, with Adam."""
    lr_of_whole: ClassVar[float | None]
    """The same where a whole model is trained at once; None where only stages are."""
    module: nn.Module
    """What is called in the place of the stage's module."""
    parameters: list[nn.Parameter]
    """What the optimiser moves."""

    def __init__(self, stage: Stage, rank: int, seed: int) -> None: ...
    @classmethod
    def chosen(cls, parameters: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
        """Of a model's or a stage's own parameters those that the optimiser moves."""
        ...

    def merge(self) -> None:
        """The stage's module holds what was trained, by itself, and zeros where it had them."""


TRAINED: Registry[type[Trained]] = Registry("what is trained", __name__)
"""Name -> what is trained; the files of this folder register."""
