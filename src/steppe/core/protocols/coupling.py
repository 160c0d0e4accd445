"""The protocols of the coupling axis: how do the weights obey, step by step or layer by layer?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.part import Part, Tensors, axis
from steppe.core.step_context import StepContext

if TYPE_CHECKING:
    from steppe.core.layer_problem import LayerProblem
    from steppe.method import Method


class AnyCoupling(Part):
    """How do the weights obey? What a `Coupling` and a `LayerSolver` share: the axis."""

    registry = axis("coupling")

    @property
    def holds(self) -> bool:
        """Whether it ever holds weights at zero between steps."""
        return False


class WeightParametrization(Protocol):
    """x = join(parts): the optimiser moves the parts, the network sees x."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What the parts of a weight are called."""
        ...

    @property
    def decays(self) -> bool:
        """Whether the optimiser's own weight decay acts on the parts."""
        ...

    @property
    def thresholds(self) -> tuple[str, ...]:
        """Which of the parts are learned beside the weight: what its name does not mean."""
        ...

    def split(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The parts that a weight begins with; `join` gives the weight back, if it can."""
        ...

    def join(self, *parts: Tensor) -> Tensor:
        """The weight that parts stand for, differentiable."""
        ...

    def named(self, layer: str) -> tuple[str, ...]:
        """The names of a weight's parts, ``conv1.weight:m`` for example."""
        ...

    def join_all(self, parts: Tensors) -> Tensors:
        """Parts by name -> weights by name."""
        ...


class Coupling(AnyCoupling):
    """How do the weights obey in a loop of steps? Its state is a dict of named tensor dicts.

    Every hook gets one `StepContext`. Its ``weights``, ``grads`` and ``state`` are changed in
    place; masks are True where a weight is kept.
    """

    scores_when_due: ClassVar[bool] = False
    """Whether scores matter only when the schedule says so; else at any step and at the end."""
    prunes: ClassVar[bool] = True
    """Whether `finish` leaves exactly the zeros that were asked for; else none."""
    trains: ClassVar[bool] = True
    """Whether the weights must be optimised for it to mean anything."""
    nested: ClassVar[bool] = False
    """Whether a weight that is gone never returns."""
    strength: ClassVar[tuple[str, ...]] = ()
    """Which of its options pull the weights towards what stays; larger ones pull harder."""

    def fits(self, method: Method) -> None:
        if not self.prunes and method.sparsity > 0:
            raise SteppeError(
                f"coupling {self.name} prunes nothing",
                got=f"a sparsity of {method.sparsity:g}",
                way_out="sparsity 0, or another coupling, such as hard_mask or admm",
            )

    @property
    def holds(self) -> bool:
        return type(self).alive is not Coupling.alive

    @property
    def parametrization(self) -> WeightParametrization | None:
        """What the network's weights are made from, where they are not trained themselves.

        The engine then registers `join` on every prunable weight and folds it away at the end. The
        context's ``weights`` and ``grads`` are those of the parts; masks stay the weights' own.
        """
        return None

    @property
    def watches(self) -> str:
        """What `StepContext.epoch` shall hold: ``epochs``, ``accuracy`` (and them), or nothing."""
        return ""

    @property
    def needs_step_sizes(self) -> bool:
        """Whether it reads `StepContext.step_sizes`."""
        return False

    @property
    def elementwise(self) -> bool:
        """Whether every entry of a weight is treated by itself, but for the projection.

        Then it works on parts of weights that are split over processes (FSDP2).
        """
        return False

    @property
    def shifts_by(self) -> str:
        """The statistic whose first entry is the mean of each input of what reads channels.

        What reads channels that go takes over their means then (`Projection.shift`), in biases and
        running means, which optimisers that hold other weights would undo. Empty: nothing is
        shifted.
        """
        return ""

    @property
    def moves_weights(self) -> bool:
        """Whether it moves the weights itself in each step, little by little, beside the optimiser.

        Optimisers that hold other weights beside the model's would undo it, and are refused.
        """
        return False

    def init(self, context: StepContext) -> dict[str, Tensors]:
        """The state before the first step; may change the weights in place."""
        return {}

    def add_gradient(self, context: StepContext) -> None:
        """Add the coupling's gradient at x to ``context.grads``, in place."""

    def after_step(self, context: StepContext) -> None:
        """Act on the weights and the state after the optimiser's step, in place."""

    def restarted(self, context: StepContext) -> None:
        """Act when a training begins anew after a cut, the weights rewound or not, in place."""

    def alive(self, weights: Tensors, state: Mapping[str, Tensors]) -> Tensors:
        """Which weights may move in the next step; the others are held at zero, come what may.

        Args:
            weights: name -> what it acts on, as in `StepContext`.
            state: its own.

        Returns:
            Name -> booleans of the weight's shape, True = alive; a name that is left out is alive.
        """
        return {}

    def taken_up(self, state: dict[str, Tensors]) -> dict[str, Tensors]:
        """A saved state, which an earlier version may have kept otherwise, as it is kept now."""
        return state

    def readable(
        self, state: Mapping[str, Mapping[str, Tensor]]
    ) -> Mapping[str, Mapping[str, Tensor]]:
        """The state in the letters of the method, for those who look at it from outside."""
        return state

    def shown(self, state: Mapping[str, Mapping[str, Tensor]]) -> dict[str, float]:
        """What a person following the run wants to see of the state, by name."""
        return {}

    def idle(self, steps: int) -> list[str]:
        """What it does not come to do in a training of so few steps, in sentences."""
        return []

    def finish(self, context: StepContext) -> Tensors:
        """Make the weights sparse as ``context.sparsity`` says, in place; returns the masks."""
        raise NotImplementedError


class LayerSolver(AnyCoupling):
    """How do the weights of one layer obey, all at once, given what calibration saw?"""

    needs: ClassVar[tuple[str, ...]] = ()
    """Calibration statistics that `solve` reads."""
    provides: ClassVar[tuple[str, ...]] = ()
    """Statistics of a score that `solve` derives itself."""
    ranks_by: ClassVar[str] = ""
    """The score of its published method, by which a start ranks; empty: that of the method."""
    shifts: ClassVar[bool] = False
    """Whether `solve` sets `LayerProblem.shift`, so that layers must have biases."""

    def solve(self, problem: LayerProblem) -> tuple[Tensor, Tensor]:
        """Prune one layer from its calibration statistics.

        Returns:
            The new weights and the mask (True = kept), both ``[rows, columns]``; exactly
            ``problem.prune`` entries of the mask are False and the weights are 0 there, not -0
            (``weight.where(mask, 0.0)``).
            Where units are several weights, ``problem.prune`` of them are gone whole.
        """
        raise NotImplementedError

    def memory(self, rows: int, columns: int) -> int:
        """Float32 numbers that `solve` holds at its peak, without the statistics it is given.

        Args:
            rows, columns: the layer's shape.
        """
        return 4 * rows * columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamSolver(LayerSolver):
    """How do norms, and what reads them, obey once dimensions of a residual stream are gone?"""

    scale: bool = True
    """Whether norms get back the size that what they give had."""
    fit: bool = True
    """Whether what reads norms is fitted to what it read in the dense model."""

    @property
    def looks(self) -> bool:
        """Whether it looks at what norms give at all."""
        return self.scale or self.fit

    def matrix(self, cross: Tensor, gram: Tensor, places: Tensor, factor: float) -> Tensor:
        """What weights that read a norm are multiplied with, ``[dimensions, those that stay]``.

        Args:
            cross: E[n0 n'], n0 what the norm gives in the dense model, n' what is left of it now.
            gram: E[n' n'].
            places: of the dimensions that stay.
            factor: how many times as large n0 is.
        """
        raise NotImplementedError


class ExpertMerger(LayerSolver):
    """A solver for whole experts, of which those that go are merged into some that stay."""

    def merged_into(self, alive: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        """Which expert each goes to.

        Args:
            alive: ``[experts]`` booleans, those that stay.
            statistics: ``[experts, experts]`` inner products, of the router's outputs over the
                tokens under ``expert_logits``, of its rows under ``expert_router``.

        Returns:
            ``[experts]`` numbers; of one that stays its own.
        """
        raise NotImplementedError

    def aligned(self, stays: Tensor, goes: Tensor) -> Tensor:
        """The order that neurons of an expert that goes take to be merged.

        Args:
            stays, goes: ``[neurons, weights]``, of the expert that stays and of the one that goes.

        Returns:
            ``[neurons]``: the neuron of ``goes`` that is merged into each of ``stays``.
        """
        raise NotImplementedError
