"""The protocols of the perturb axis: how flat?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.neurons import Neurons
from steppe.core.part import Part, axis
from steppe.core.protocols.score import Score

if TYPE_CHECKING:
    from steppe.method import Method

ON = ("alive", "all")


class Perturb(Part):
    """How flat? Where the gradient is taken instead of at x."""

    registry = axis("perturb")
    along: ClassVar[Literal["gradient", "momentum"]] = "gradient"
    """What it goes along: the gradient at x, which costs a pass of its own, or the optimiser's
    momentum, which is there already: the gradient at x + eps is then the step's only one."""
    through: ClassVar[Literal["loss", "outputs"]] = "loss"
    """What is differentiated at x + eps: the loss, or the network's outputs, times the gradient by
    them at x. The closure then gives them to `Sparsifier.loss`."""

    @property
    def active(self) -> bool:
        """Whether it moves anything at all."""
        return True

    @property
    def gradients(self) -> int:
        """How many gradients a step costs in which it is due."""
        return 2 if self.active and self.along == "gradient" else 1

    @property
    def moves_held(self) -> bool:
        """Whether weights move that a coupling holds at zero; else they get no gradient here."""
        return False

    @property
    def parts(self) -> tuple[Perturb, ...]:
        """The perturbations that take turns in a run; it alone, unless it has phases."""
        return (self,)

    def due(self, step: int) -> bool:
        """Whether step ``step`` (counted from 0) is perturbed."""
        return True

    def at(self, progress: float) -> Perturb:
        """The perturbation at ``progress`` in [0, 1] of the run; itself, unless it has phases."""
        return self

    def of_step(self, step: int, total: int) -> Perturb | None:
        """What moves the weights in step ``step`` of ``total``; None where nothing does."""
        now = self.at(step / total)
        return now if now.active and now.due(step) else None

    def for_network(self, model: nn.Module, groups: Sequence[Group]) -> tuple[Perturb, list[str]]:
        """The perturbation with its scores as `Score.for_network` gives them, and its sentences."""
        return self, []

    def perturbation(
        self, weights: list[Tensor], grads: list[Tensor], names: list[str]
    ) -> list[Tensor]:
        """eps for each parameter, at which (added to x) the step's gradient is taken.

        Args:
            weights: parameters at x.
            grads: what it goes ``along``: gradients at x, averaged over the ranks, unscaled, or
                the momentum; zero where a weight is held at zero, unless `moves_held`.
            names: the parameters' names.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ascent(Perturb):
    """How flat? A move of some length in the weights that are alive, or in all."""

    on: str = "alive"
    """``alive``: a weight that the coupling holds at zero does not move and does not count in the
    length; ``all``: it moves too, though no later step will make anything of it."""

    def __post_init__(self) -> None:
        if self.on not in ON:
            raise SteppeError(
                f"{self.name} perturbs on {' or '.join(ON)} weights", got=f"on {self.on!r}"
            )

    @property
    def moves_held(self) -> bool:
        return self.on == "all"

    def changed_since(self, stored: Mapping[str, Any], method: Method) -> str:
        if "on" in stored or self.moves_held or not method.coupling.holds:
            return ""
        return f"{self.name} moved weights that {method.coupling.name} holds at zero (on 'all')"


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronPerturb(Ascent):
    """How flat, for each neuron apart? Told of the neurons that the run can prune."""

    psi: Any = "l2"
    """The score of neurons; a part, its name, or name and options."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "psi", Score.make(self.psi))

    def fits(self, method: Method) -> None:
        self.psi.check_fits(method)

    def changed_since(self, stored: Mapping[str, Any], method: Method) -> str:
        if "psi" in stored:
            return super().changed_since(stored, method)
        return f"{self.name}'s radii came from the output layer too, and norms had the least"

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "psi": self.psi.to_dict()}

    def for_network(self, model: nn.Module, groups: Sequence[Group]) -> tuple[Perturb, list[str]]:
        psi, said = self.psi.for_network(model, True, groups)
        return dataclasses.replace(self, psi=psi), said

    def perturbation(
        self, weights: list[Tensor], grads: list[Tensor], names: list[str]
    ) -> list[Tensor]:
        return self.among(weights, grads, names, Neurons.rows_of(weights, names))

    def among(
        self, weights: list[Tensor], grads: list[Tensor], names: list[str], neurons: Neurons
    ) -> list[Tensor]:
        """eps for each parameter, knowing the neurons that it has a part in.

        Args:
            weights, grads, names: as of `perturbation`.
            neurons: those of the run, scored by ``psi``.
        """
        raise NotImplementedError
