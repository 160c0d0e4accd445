"""What a coupling is given at a step: when it is, the weights, and the projection."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from steppe.core.part import Tensors


class Projection(Protocol):
    """Masks of the weights at a sparsity, as score, structure and budget choose them."""

    def __call__(self, weights: Tensors, sparsity: float, within: Tensors | None = None) -> Tensors:
        """Masks, True = kept; what ``within`` zeroes stays zero."""
        ...

    def cut(self, masks: Tensors) -> Tensors:
        """Of these masks what is enough to silence the units, the rest left open."""
        ...

    def compensate(self, weights: Tensors, masks: Tensors) -> None:
        """Zero what masks zero and make up for it with the rest, as the score knows; in place."""
        ...

    def shift(self, weights: Tensors, masks: Tensors, beside: Tensors) -> None:
        """Zero what masks zero; what reads it takes over its mean, in place.

        Args:
            weights, masks: as of `compensate`.
            beside: `StepContext.beside`.
        """
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


@dataclasses.dataclass(kw_only=True)
class StepContext:
    """A step as a coupling sees it: the one just done or about to be done.

    Args:
        step: its number, from 0; -1 before the first.
        total: steps of the run.
        sparsity: what the schedule asks for after this step; at the end, of the method.
        due: whether the schedule wants the mask chosen anew after this step.
        weights: name -> what the coupling acts on, detached; changed in place.
        project: from weights to masks.
        state: what `Coupling.init` returned; changed in place.
        grads: name -> gradient at x, to which `Coupling.add_gradient` adds; of a weight that took
            no part in the loss zeros, and what is added to them moves nothing.
        epoch: the epoch that this step ended, if it did and the loop knows of epochs.
        quiet: name -> for how many steps a weight has had no gradient, this one included, because
            it took no part in the loss; names that have one are left out.
        step_sizes: name -> how far a unit of gradient moves each weight, in the optimiser's own
            metric; empty unless the coupling asks for it.
        moved: after the optimiser's step, the names of the weights that it moved: not those that
            took no part in the loss, nor those of groups whose learning rate is 0, nor those of an
            optimiser whose step the scaler skipped. Names of the coupling's weights or their parts.
        fixed: name -> True where an entry is of no unit that can go, though others of its tensor
            are (coupled channels, some of them excluded); what pulls weights to zero leaves it
            alone. Tensors that have no such entry are left out.
        beside: name -> biases and running means of what reads the units, changed in place where
            they take over the means of those that go; empty unless the coupling shifts.
    """

    step: int
    total: int
    sparsity: float
    due: bool
    weights: Tensors
    project: Projection
    state: dict[str, Tensors] = dataclasses.field(default_factory=dict)
    grads: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    epoch: Epoch | None = None
    quiet: Mapping[str, int] = dataclasses.field(default_factory=dict)
    step_sizes: Tensors = dataclasses.field(default_factory=dict)
    moved: frozenset[str] = frozenset()
    fixed: Tensors = dataclasses.field(default_factory=dict)
    beside: Tensors = dataclasses.field(default_factory=dict)

    @property
    def last(self) -> bool:
        """Whether no step follows."""
        return self.step + 1 == self.total
