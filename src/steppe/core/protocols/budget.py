"""The protocols of the budget axis: how much, where, among single units or coupled channels?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from torch import Tensor

from steppe.core.cost import Cost
from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.layer import Layer
from steppe.core.part import Part, Tensors, axis
from steppe.core.selection import apportion, keep_largest, share_of

if TYPE_CHECKING:
    from steppe.method import Method


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget(Part):
    """How much, where? What a `UnitBudget` and a `ChannelBudget` share."""

    sparsity: float
    """The fraction that is gone at the end: of the units, or of what coupled channels cost."""
    registry = axis("budget")

    def __post_init__(self) -> None:
        if not isinstance(self.sparsity, int | float) or not 0.0 <= self.sparsity < 1.0:
            raise SteppeError(
                "sparsity must lie in [0, 1)",
                got=repr(self.sparsity),
                way_out=f"write {share_of(self.sparsity)} %",
            )

    @property
    def target(self) -> float:
        """The fraction that is gone at the end."""
        return self.sparsity


class UnitBudget(Budget):
    """How much, where? Chooses exactly so many units among the layers."""

    uneven: ClassVar[bool] = False
    """Whether it insists on different sparsities in different layers."""
    layerwise: ClassVar[bool] = True
    """Whether `counts` knows each layer's share before all weights are seen together."""
    profiled_by: ClassVar[str | None] = None
    """The score whose outliers `counts` asks for, or None."""

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

    def profile(self, units: Tensor) -> float:
        """What `counts` wants to know of a layer's saliencies."""
        return 0.0


Levels = dict[str, int]
"""Layer name -> which of its levels of sparsity."""
LevelEvaluator = Callable[[Sequence[Levels], int, int], list[float]]
"""``(candidates, tokens, draw)`` to how far each is from the dense model on so many tokens, which
are the same for all of them and drawn by the number ``draw``: lower is better."""


class LevelBudget(UnitBudget):
    """A budget that tries levels of sparsity of single layers out on the whole model.

    The engine solves each layer at each level once, from statistics of the dense model, and then
    mixes these solutions as the budget asks.
    """

    @property
    def rounds(self) -> int:
        """How often `better` is asked; after each the run can be resumed."""
        raise NotImplementedError

    @property
    def tokens_at_once(self) -> int:
        """Candidates times tokens of the largest comparison."""
        raise NotImplementedError

    @property
    def judged_share(self) -> float:
        """Share of the calibration windows by which candidates are compared, and nothing else."""
        raise NotImplementedError

    def offers(
        self, layers: Mapping[str, Layer], sizes: Mapping[str, int], prune: int
    ) -> dict[str, dict[int, int]]:
        """Layer name -> level -> units that it loses there; at level 0 they lose ``prune``."""
        raise NotImplementedError

    def better(
        self,
        best: Levels,
        number: int,
        offers: Mapping[str, Mapping[int, int]],
        sizes: Mapping[str, int],
        evaluate: LevelEvaluator,
    ) -> Levels:
        """The best levels after another round; a function of its arguments alone.

        Args:
            best: those of the round before; 0 for all layers at first.
            number: of the round.
            offers: as `offers` says.
            sizes: layer name -> number of its units.
            evaluate: how far candidates are from the dense model.

        Returns:
            Levels with which as many units go in all.
        """
        raise NotImplementedError


class ChannelBudget(Budget):
    """How much, where? Chooses coupled channels so that the network costs what is allowed."""

    meets: ClassVar[bool] = True
    """Whether the cost comes out as asked for; else how much goes is what the scores say."""

    def fits(self, method: Method) -> None:
        if isinstance(self, UnitBudget) or method.structure.whole_outputs:
            return
        raise SteppeError(
            f"budget {self.name} chooses among coupled channels",
            got=f"structure {method.structure.name}",
            way_out="structure channel, with groups=steppe.channel_groups(model, x) (on the "
            "command line --target); or budget pooled or uniform",
        )

    def within_cost(
        self, units: Mapping[str, Tensor], groups: Sequence[Group], cost: Cost, allowed: float
    ) -> Tensors:
        """Which coupled channels stay.

        Args:
            units: group name -> ``[units]`` saliencies, ranked by absolute value.
            groups: the network's coupled channels.
            cost: of the network as a function of the groups' widths.
            allowed: the most it may come to.

        Returns:
            Group name -> ``[units]`` booleans, True = kept.

        Raises:
            SteppeError: the fewest channels that must stay cost more.
        """
        raise NotImplementedError


CandidateEvaluator = Callable[[Tensors], float]
"""Group name -> ``[units]`` booleans, to how good the network is with them: higher is better."""


class SearchBudget(ChannelBudget):
    """A budget that tries coupled channels out on the network, and keeps the best candidate."""

    def search(
        self,
        units: Mapping[str, Tensor],
        groups: Sequence[Group],
        cost: Cost,
        allowed: float,
        evaluate: CandidateEvaluator,
    ) -> Tensors:
        """Which coupled channels stay.

        Args:
            units, groups, cost, allowed: as of `ChannelBudget.within_cost`.
            evaluate: how good a candidate is, see `steppe.engine.step.candidate_evaluation`.
        """
        raise NotImplementedError


class BlockTrials(Protocol):
    """What a `BlockBudget` may ask of a language model, as it is once some blocks are gone."""

    def changes(self, how: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
        """Block that may go -> mean over tokens of what it does to its inputs.

        Args:
            how: inputs and outputs of a block ``[..., width]`` to a number for each token.
        """
        ...

    def losses(self) -> dict[str, float]:
        """Block that may go -> mean loss of the next token once it is gone too."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockBudget(Budget):
    """A budget that tries whole decoder blocks of a language model out.

    ``round(sparsity * blocks)`` blocks go, of those that may, those that matter least.
    """

    greedy: bool = True
    """Whether what is left is looked at anew after each block that goes; else all go at once."""
    tokens: int = 32768
    """Calibration tokens that are looked at, in whole windows; all if they are fewer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tokens < 1:
            raise SteppeError(
                f"budget {self.name} looks at one calibration token at least",
                got=f"tokens {self.tokens}",
                way_out="tokens 32768",
            )

    def fits(self, method: Method) -> None:
        if method.structure.removes != "blocks":
            raise SteppeError(
                f"budget {self.name} chooses among whole decoder blocks",
                got=f"structure {method.structure.name}",
                way_out="structure layers; or budget uniform",
            )
        if method.objective.scope != "layer" or method.calibration_needs:
            raise SteppeError(
                "whole blocks go from a language model at once; what is left stays as it is",
                got=f"method {method.name} with objective {method.objective.name}, score "
                f"{method.score.name} and coupling {method.coupling.name}",
                way_out="method depth",
            )

    def windows(self, tokens: Tensor) -> Tensor:
        """Those of the calibration windows ``[windows, tokens]`` that are looked at."""
        return tokens[: -(-self.tokens // tokens.shape[1])]

    def models(self, blocks: int) -> int:
        """Of how many models the hidden states are kept at once, while so many blocks may go."""
        raise NotImplementedError

    def rated(self, trials: BlockTrials) -> dict[str, float]:
        """Block that may go -> how much it matters in the model as it is now.

        Args:
            trials: of the model.
        """
        raise NotImplementedError
