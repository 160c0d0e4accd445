"""The coupling of a run and its state: begun, moved, cut."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.protocols import Coupling, Tensors
from steppe.core.step_context import StepContext
from steppe.engine.step.prunable_weights import PrunableWeights
from steppe.engine.step.selector import Selector
from steppe.method import Method


class CouplingAtWork:
    """A coupling with what it acts on.

    Args:
        method: whose sparsity and schedule it follows.
        coupling: the method's.
        total: steps of the run.
        prunable: the weights, or their parts.
        selector: from weights to masks.
        waits: whether its score knows nothing before the first gradient.
    """

    def __init__(
        self,
        method: Method,
        coupling: Coupling,
        total: int,
        prunable: PrunableWeights,
        selector: Selector,
        waits: bool,
    ) -> None:
        self._method, self._coupling, self._total = method, coupling, total
        self._prunable, self._selector, self._waits = prunable, selector, waits
        self.state: dict[str, Tensors] | None = None
        """What it remembers; None before it has begun."""

    @property
    def begun(self) -> bool:
        """Whether it has a state."""
        return self.state is not None

    def readable(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Its state in the method's letters; empty before it has begun."""
        return {} if self.state is None else self._coupling.readable(self.state)

    def context(self, step: int, sparsity: float, due: bool) -> StepContext:
        """What its hooks get."""
        return StepContext(
            step=step,
            total=self._total,
            sparsity=sparsity,
            due=due,
            weights=self._prunable.tensors,
            project=self._selector,
            state=self.state if self.state is not None else {},
            fixed=self._selector.fixed(self._prunable.tensors),
            beside=self._selector.beside(),
        )

    @torch.no_grad()
    def begin(self, step: int) -> None:
        """The state before the first step that it sees."""
        done = step / self._total
        sparsity = self._method.schedule.sparsity(done, self._method.sparsity)
        self.state = self._coupling.init(self.context(-1, sparsity, due=True))

    def cut(self, step: int) -> Tensors:
        """The last projection, in place; its masks.

        Raises:
            SteppeError: nothing is known of the weights yet.
        """
        self._can_score()
        if not self.begun:
            self.begin(step)
        return self._coupling.finish(self.context(step, self._method.sparsity, due=True))

    def masks_now(self, step: int) -> Tensors:
        """The masks that `cut` would leave; nothing is changed."""
        self._can_score()
        context = self.context(step, self._method.sparsity, due=True)
        context.weights = {name: t.clone() for name, t in context.weights.items()}
        context.beside = {name: t.clone() for name, t in context.beside.items()}
        context.state = copy.deepcopy(context.state)
        if not self.begun:
            context.state = self._coupling.init(context)
        return self._coupling.finish(context)

    def _can_score(self) -> None:
        if self._waits and not self.begun:
            raise SteppeError(
                f"score {self._method.score.name} needs at least one step before finish()"
            )

    def alive(self) -> dict[int, Tensor]:
        """``id(parameter)`` -> True where it may move in the next step; those left out may."""
        if self.state is None:
            return {}
        masks = self._coupling.alive(self._prunable.tensors, self.state)
        trained = self._prunable.trained
        return {id(trained[name]): mask for name, mask in masks.items()}

    def load(self, state: dict[str, Tensors] | None, home: Callable[[Tensors], Tensors]) -> None:
        """Take up a saved state, or follow the weights to another device.

        Args:
            state: as it was.
            home: copies beside the weights of their names.
        """
        if state is not None:
            state = self._coupling.taken_up({key: home(value) for key, value in state.items()})
        self.state = state
