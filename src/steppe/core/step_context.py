"""When a coupling acts, and the projection it is handed."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from torch import Tensor

Tensors = dict[str, Tensor]


class Project(Protocol):
    """What the engine hands to a coupling: masks of the weights at a sparsity."""

    def __call__(
        self, weights: Tensors, sparsity: float, within: Tensors | None = None
    ) -> Tensors: ...

    def cut(self, masks: Tensors) -> Tensors:
        """Of these masks what is enough to silence the units, the rest left open."""
        ...

    def compensate(self, weights: Tensors, masks: Tensors) -> None:
        """Zero what masks zero and make up for it with the rest, as the score knows; in place."""
        ...


@dataclasses.dataclass(frozen=True)
class Epoch:
    """A pass over the data that has just ended.

    Args:
        number: of the training that it belongs to, from 1.
        of: how many that training has.
        accuracy: fraction of right answers during the pass; None unless a part watches it.
    """

    number: int
    of: int
    accuracy: float | None = None


@dataclasses.dataclass
class StepContext:
    """When a coupling acts: the step just done or about to be done, of how many."""

    step: int
    total: int
    sparsity: float
    """What the schedule asks for after this step."""
    due: bool
    """Whether the schedule wants the mask chosen anew after this step."""
    epoch: Epoch | None = None
    """The epoch that this step ended, if it did and the loop knows of epochs."""
    step_sizes: Tensors = dataclasses.field(default_factory=dict)
    """Name -> how far a unit of gradient moves each weight, in the optimiser's own metric; empty
    unless the coupling asks for it."""

    @property
    def last(self) -> bool:
        """Whether no step follows."""
        return self.step + 1 == self.total
