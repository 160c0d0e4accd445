"""The end of a run: what the last projection made, and what holds after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.mask import apply_masks
from steppe.core.notes import note
from steppe.core.protocols import Tensors
from steppe.core.split import over, part_of
from steppe.engine.step.finished import Finished, projected
from steppe.engine.step.prunable_weights import PrunableWeights
from steppe.engine.step.selector import Selector
from steppe.engine.step.sparse_copy import weights_in_copy


class LastCut:
    """The masks of the last projection, once it is made.

    Args:
        prunable: the weights that are pruned.
        selector: counts units.
    """

    def __init__(self, prunable: PrunableWeights, selector: Selector) -> None:
        self._prunable, self._selector = prunable, selector
        self._folded = False
        self._told = False
        self.masks: Tensors | None = None
        """Name -> booleans, True = kept; None before the end."""
        self.finished: Finished | None = None
        """What `Sparsifier.finish` returned."""

    def make(self, before: Tensors, masks: Tensors) -> Finished:
        """Take in what the coupling's last projection made.

        Args:
            before: name -> weight before it.
            masks: name -> booleans, True = kept.
        """
        self._folded = self._prunable.parametrized
        self._prunable.fold()
        every = self._prunable.model_parameters
        weights = self._prunable.weights
        everywhere = over(self._prunable.parameters.values())
        finished = projected(before, weights, masks, self._selector, every, everywhere)
        self.masks, self.finished, self._told = masks, finished, False
        return finished

    def resume(self, masks: Tensors | None) -> None:
        """Begin again where a state was saved: before the end, or after it."""
        self.masks, self.finished, self._told = masks, None, False

    def stands(self) -> bool:
        """Whether the end was made and the weights still are what it left.

        Weights that were put back since (from a copy, a checkpoint) undo it, and the run goes on.

        Raises:
            SteppeError: they were put back, but what was trained in their place is gone.
        """
        if self.masks is None:
            return False
        weights, masks = self._prunable.parameters, self.masks
        if not any(bool(part_of(weights[n].detach())[~masks[n]].any()) for n in masks):
            return True
        if self._folded:
            raise SteppeError(
                "finish() ends a method that trains other tensors in the weights' place",
                got="weights that were put back",
                way_out="a new sparsifier; sparsifier.apply_to(copy.deepcopy(model)) to look at "
                "the sparse model on the way",
            )
        self.resume(None)
        return False

    def holds(self) -> bool:
        """Whether a step leaves the zeros as they are and the coupling out; told once."""
        if not self.stands():
            return False
        assert self.masks is not None
        if self._told:
            return True
        if not self._folded and all(bool(m.all()) for m in self.masks.values()):
            self.resume(None)  # there is nothing to hold
            return False
        self._told = True
        note(
            "a step after finish(): its zeros stay and the other weights are trained on, without "
            "the coupling. To look at the sparse model on the way and go on with the method: "
            "sparsifier.apply_to(copy.deepcopy(model))",
            stacklevel=4,
        )
        return True

    def alive(self) -> dict[int, Tensor]:
        """``id(parameter)`` -> True where the masks keep it; nothing before the end."""
        if not self.stands():
            return {}
        assert self.masks is not None
        return {id(self._prunable.parameters[n]): mask for n, mask in self.masks.items()}

    def hold(self) -> None:
        """Zero what the masks say is gone, in the model."""
        assert self.masks is not None
        weights = self._prunable.parameters
        apply_masks({n: part_of(weights[n].detach()) for n in self.masks}, self.masks)

    @torch.no_grad()
    def onto(self, copy: nn.Module, masks: Tensors) -> Finished:
        """Put zeros into a copy of the model.

        Args:
            copy: of the model, wrapped or not.
            masks: name -> booleans, True = kept.
        """
        weights = weights_in_copy(copy, masks)
        before = {name: w.clone() for name, w in weights.items()}
        apply_masks(weights, {n: m.to(weights[n].device) for n, m in masks.items()})
        every = self._prunable.model_parameters
        return projected(before, weights, masks, self._selector, every)
