"""The seven protocols that parts fulfil."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from steppe.core.base import Part as Part
from steppe.core.base import axis
from steppe.core.cost import Cost
from steppe.core.errors import SteppeError, unknown
from steppe.core.fit import fit
from steppe.core.group import Group, Slice
from steppe.core.layer import Layer
from steppe.core.moment import Moment, Project
from steppe.core.selection import apportion, keep_largest

if TYPE_CHECKING:
    from steppe.core.problem import Problem
    from steppe.method import Method

Tensors = dict[str, Tensor]


class Score(Part):
    """What matters? A signed saliency per weight; the library ranks by its absolute value."""

    registry = axis("score")
    needs: ClassVar[tuple[str, ...]] = ()
    """Names of the statistics that `score` reads (see `steppe.core.statistic`)."""
    compensates: ClassVar[bool] = False
    """Whether it knows how kept weights make up for the others, see `compensate`."""

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        """Saliency of each weight, of the weight's shape; its sign does not matter.

        Args:
            weight: any shape; the weights, or ADMM's x + u.
            stats: statistic name -> tensor, of the shape that the statistic gives it
                (`steppe.core.statistic.Statistic.shape`): most broadcast over ``weight``.
            key: the weight's name, a constant that random scores derive their seed from.
        """
        raise NotImplementedError

    def compensate(
        self, weight: Tensor, keep: Tensor, stats: Mapping[str, Tensor], key: str
    ) -> Tensor:
        """The weight with zeros where ``keep`` is False, the rest changed to make up for them.

        Args:
            weight: any shape; what went earlier is zero already.
            keep: booleans of its shape.
            stats, key: as of `score`.
        """
        raise NotImplementedError

    def reduce(self, groups: Tensor) -> Tensor:
        """``[..., size]`` saliencies of the members of groups -> ``[...]``, one per group."""
        return groups.squeeze(-1) if groups.shape[-1] == 1 else groups.norm(dim=-1)

    def reads(self, part: Slice) -> bool:
        """Whether coupled channels are scored by that part of them; their weights, by default."""
        return part.role == "output"

    def members(self, group: Group, saliencies: Mapping[str, Tensor]) -> Tensor:
        """``[units, members]`` of what it `reads`: reduced to one number for each channel."""
        found = [s.rows(saliencies[s.name]) for s in group.slices if self.reads(s)]
        if not found:
            raise SteppeError(
                f"score {self.name} reads what this group of channels does not have",
                got=group.name,
                way_out="choose another score, or exclude the layer",
            )
        return torch.cat(found, dim=1)


class Structure(Part):
    """Which shape? How weights are tied into units that live and die together."""

    registry = axis("structure")
    whole_outputs: ClassVar[bool] = False
    """Whether a unit is a whole output of its layer."""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The structure that a short form such as ``2:4`` stands for, or None."""
        return None

    @classmethod
    def make(cls, spec: Part | str | Mapping[str, Any]) -> Self:
        """As `Part.make`; a string may also be a short form, ``2:4`` or ``block:4x4``."""
        if isinstance(spec, str) and spec not in cls.registry:
            for name in cls.registry:
                parsed = cls.registry[name].parse(spec)
                if parsed is not None:
                    assert isinstance(parsed, cls)
                    return parsed
            raise unknown("structure", spec, [*cls.registry, "2:4", "block:4x4"])
        return super().make(spec)

    @property
    def sparsity(self) -> float | None:
        """The sparsity that the shape itself fixes (N:M), or None."""
        return None

    def check(self, layer: Layer) -> None:
        """Raise SteppeError when the layer cannot have this shape, naming the layer."""

    def groups(self, weight: Tensor, layer: Layer) -> Tensor:
        """A weight-shaped tensor as ``[rows, units per row, members of a unit]``."""
        raise NotImplementedError

    def expand(self, keep: Tensor, layer: Layer) -> Tensor:
        """``[rows, units per row]`` booleans -> a mask of the weight's shape."""
        raise NotImplementedError

    def units(self, layer: Layer) -> tuple[int, int]:
        """(rows of units, units per row)."""
        raise NotImplementedError

    @property
    def columns(self) -> int | None:
        """Neighbouring inputs whose fate is decided together; None where rows are tied too."""
        return None

    def select(self, units: Tensors) -> Tensors | None:
        """The kept units where the shape alone decides (N:M); None leaves it to the budget."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget(Part):
    """How much, where? Chooses exactly so many units among the layers."""

    sparsity: float
    """The fraction of units to be zero at the end."""
    registry = axis("budget")
    uneven: ClassVar[bool] = False
    """Whether it insists on different sparsities in different layers."""
    layerwise: ClassVar[bool] = True
    """Whether `counts` knows each layer's share before all weights are seen together."""
    profiled_by: ClassVar[str | None] = None
    """The score whose outliers `counts` asks for, or None."""
    meets: ClassVar[bool] = True
    """Whether coupled channels come out at the sparsity; else that is what the scores say."""
    tries: ClassVar[bool] = False
    """Whether coupled channels are tried out, see `steppe.core.search.Searching`."""

    def __post_init__(self) -> None:
        if not isinstance(self.sparsity, int | float) or not 0.0 <= self.sparsity < 1.0:
            raise SteppeError(
                "sparsity must lie in [0, 1)",
                got=repr(self.sparsity),
                way_out="write 0.95 for 95 % zeros",
            )

    @property
    def target(self) -> float:
        """The fraction of units to be zero at the end."""
        return self.sparsity

    def keep(self, units: Tensors, layers: Mapping[str, Layer], prune: int) -> Tensors:
        """Which units stay.

        Args:
            units: layer name -> ``[rows, units per row]`` saliencies, ranked by absolute value.
            layers: layer name -> its shape.
            prune: how many units are zeroed in all.

        Returns:
            layer name -> booleans of the same shape with exactly ``prune`` False in all.
        """
        profile = {n: self.profile(u) for n, u in units.items()} if self.profiled_by else {}
        sizes = {name: u.numel() for name, u in units.items()}
        counts = self.counts(layers, sizes, prune, profile)
        return {name: self.within(u, counts[name]) for name, u in units.items()}

    def counts(
        self,
        layers: Mapping[str, Layer],
        sizes: Mapping[str, int],
        prune: int,
        profile: Mapping[str, float],
    ) -> dict[str, int]:
        """How many units each layer loses, ``prune`` in all; the same fraction by default.

        Args:
            layers: layer name -> its shape.
            sizes: layer name -> number of its units.
            prune: how many units are zeroed in all.
            profile: layer name -> what `profile` said of it; empty unless asked for.
        """
        total = max(sum(sizes.values()), 1)
        return apportion({n: prune * s / total for n, s in sizes.items()}, sizes, prune)

    def within(self, units: Tensor, prune: int) -> Tensor:
        """The units that stay in one layer, ``[rows, units per row]`` booleans."""
        return keep_largest({"": units}, prune)[""]

    def within_cost(
        self, units: Tensors, groups: Sequence[Group], cost: Cost, allowed: float
    ) -> Tensors:
        """Which coupled channels stay (see `fit`): the least salient go, over all layers."""
        return fit(units, groups, cost, allowed)

    def profile(self, units: Tensor) -> float:
        """What `counts` wants to know of a layer's saliencies."""
        return 0.0


class Schedule(Part):
    """When? The fraction of units that are zero at each step."""

    registry = axis("schedule")

    @property
    def rewinds(self) -> str:
        """What returns to its beginning whenever something was pruned; see ``cyclic``."""
        return ""

    def anchor(self, total: int) -> int:
        """The step before which the run stands when it is rewound."""
        return 0

    def clock(self, step: int, total: int) -> tuple[int, int]:
        """Steps since the beginning of the training that ``step`` belongs to, and its length.

        Learning rate and data follow it. It is the run itself unless the schedule rewinds.
        """
        return step, total

    def sparsity(self, progress: float, target: float) -> float:
        """Sparsity at ``progress`` in [0, 1] of the run, ``target`` being the end's."""
        raise NotImplementedError

    def due(self, step: int, total: int) -> bool:
        """Whether the mask is chosen anew after step ``step`` (counted from 0)."""
        return True

    def after(self, step: int, total: int, target: float) -> float:
        """Sparsity after step ``step`` of ``total`` (counted from 0)."""
        return self.sparsity((step + 1) / max(total, 1), target)


class Coupling(Part):
    """How do the weights obey? Its state is a dict of named tensor dicts."""

    registry = axis("coupling")
    scopes: ClassVar[tuple[str, ...]] = ("task", "block")
    """Scopes of the objectives it works under: a loop of steps, or `solve` for ``layer``."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Calibration statistics that `solve` reads."""
    provides: ClassVar[tuple[str, ...]] = ()
    """Statistics of a score that `solve` derives itself."""
    scores_when_due: ClassVar[bool] = False
    """Whether scores matter only when the schedule says so; else at any step and at the end."""
    trains: ClassVar[bool] = True
    """Whether the weights must be optimised for it to mean anything."""
    advice: ClassVar[str] = "train longer, cut in cycles or gradually (gmp)"
    """What to do when the last projection moves the weights far."""
    squares: ClassVar[int] = 4
    """Matrices of columns^2 that `solve` holds beside the gram, for estimates of memory."""

    def solve(self, problem: Problem) -> tuple[Tensor, Tensor]:
        """Prune one layer at once from its calibration statistics.

        Returns:
            The new weights and the mask (True = kept), both ``[rows, columns]``; exactly
            ``problem.prune`` entries of the mask are False and the weights are 0 there.
        """
        raise NotImplementedError

    def init(self, weights: Tensors, project: Project, moment: Moment) -> dict[str, Tensors]:
        """The state before the first step; may change the weights in place."""
        return {}

    def add_gradient(
        self,
        weights: Tensors,
        grads: Tensors,
        state: dict[str, Tensors],
        moment: Moment,
    ) -> None:
        """Add the coupling's gradient at x to ``grads``, in place."""

    def after_step(
        self,
        weights: Tensors,
        state: dict[str, Tensors],
        project: Project,
        moment: Moment,
    ) -> None:
        """Act on the weights and the state after the optimiser's step, in place."""

    @property
    def watches(self) -> str:
        """What it asks for (``Moment.epoch``): ``epochs``, ``accuracy`` (and them), or nothing."""
        return ""

    @property
    def paced(self) -> bool:
        """Whether it reads ``Moment.pace``."""
        return False

    def restarted(self, weights: Tensors, state: dict[str, Tensors]) -> None:
        """Act when a training begins anew after a cut, the weights rewound or not, in place."""

    def shown(self, state: Mapping[str, Tensors]) -> dict[str, float]:
        """What a person following the run wants to see of the state, by name."""
        return {}

    def finish(
        self,
        weights: Tensors,
        state: dict[str, Tensors],
        project: Project,
        sparsity: float,
    ) -> Tensors:
        """Make the weights exactly sparse, in place, and return the masks."""
        raise NotImplementedError


class Perturb(Part):
    """How flat? Where the gradient is taken instead of at x."""

    registry = axis("perturb")

    @property
    def active(self) -> bool:
        """Whether a second gradient is needed at all."""
        return True

    def due(self, step: int) -> bool:
        """Whether step ``step`` (counted from 0) takes the second gradient."""
        return True

    def at(self, progress: float) -> Perturb:
        """The perturbation at ``progress`` in [0, 1] of the run; itself, unless it has phases."""
        return self

    def perturbation(
        self, weights: list[Tensor], grads: list[Tensor], names: list[str]
    ) -> list[Tensor]:
        """eps for each parameter, at which (added to x) the second gradient is taken.

        Args:
            weights: parameters at x.
            grads: gradients at x, averaged over the ranks, unscaled.
            names: the parameters' names.
        """
        raise NotImplementedError


class Objective(Part):
    """Against what is the loss measured?"""

    registry = axis("objective")
    scope: ClassVar[str] = "task"
    """What is optimised at a time: the whole model (task), a decoder block, or one layer."""

    def fits(self, method: Method) -> None:
        if self.scope not in method.coupling.scopes:
            raise SteppeError(
                f"coupling {method.coupling.name} works under {' or '.join(method.coupling.scopes)}"
                f" objectives",
                got=f"objective {self.name}",
                way_out="choose another objective, or another coupling",
            )


AXES: tuple[type[Part], ...] = (
    Score,
    Structure,
    Budget,
    Schedule,
    Coupling,
    Perturb,
    Objective,
)
