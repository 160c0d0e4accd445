"""Random widths of the right cost are tried out, with batch norm adapted (EagleEye)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from steppe.budget.search.candidates import Tried, Widths, into_band, most_of
from steppe.core.cost import Cost
from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.protocols import CandidateEvaluator, SearchBudget, Tensors

DRAWS = 20
"""Draws for each candidate that is asked for, before it is left at fewer."""


@SearchBudget.registry.register("adaptive_bn_search")
@dataclass(frozen=True, kw_only=True)
class AdaptiveBnSearch(SearchBudget):
    """The best of many random allocations, each evaluated without training.

    Each candidate draws, for every group of coupled channels, the share of it that goes from
    U(low, high); all shares are shifted alike until the cost lies in
    [(1 - band) allowed, allowed]. Channels within a group stay by saliency. The evaluation
    re-estimates batch-norm statistics and measures accuracy on data held out from training. Where
    channels are too few for the band, the candidates nearest to it are tried.

    Args:
        candidates: how many are tried. The authors' code searches without end.
        low, high: the range of the shares that go, before the shift.
        band: how far below what is allowed a candidate's cost may lie, as a share of it. (The
            authors take both sides by 0.005 of the whole, and draw again instead of a shift.)
        seed: of the draws.

    Source: Li et al., EagleEye: Fast Sub-net Evaluation, ECCV 2020.
    """

    candidates: int = 100
    low: float = 0.0
    high: float = 0.7
    band: float = 0.01
    seed: int = 0
    name = "adaptive_bn_search"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1 or not 0.0 <= self.low <= self.high <= 1.0 or self.band < 0:
            raise SteppeError(
                "adaptive_bn_search needs candidates >= 1, 0 <= low <= high <= 1 and band >= 0",
                got=f"candidates {self.candidates}, low {self.low}, high {self.high}, "
                f"band {self.band}",
            )

    def search(
        self,
        units: Mapping[str, Tensor],
        groups: Sequence[Group],
        cost: Cost,
        allowed: float,
        evaluate: CandidateEvaluator,
    ) -> Tensors:
        tried = Tried(units, evaluate)
        for widths in self.drawn(units, groups, cost, allowed):
            tried(widths)
        return tried.best()

    def drawn(
        self, units: Mapping[str, Tensor], groups: Sequence[Group], cost: Cost, allowed: float
    ) -> list[Widths]:
        """The candidates, no two the same: all in the band, or else all as near as any."""
        rng, most = random.Random(self.seed), most_of(units, groups)
        candidates: dict[tuple[int, ...], tuple[Widths, float]] = {}
        inside: list[Widths] = []
        for _ in range(DRAWS * self.candidates):
            shares = {g.name: 1.0 - rng.uniform(self.low, self.high) for g in groups}
            widths, total = into_band(shares, groups, most, cost, allowed)
            key = tuple(widths.values())
            if key not in candidates and total <= allowed:
                candidates[key] = widths, total
                if total >= (1.0 - self.band) * allowed:
                    inside.append(widths)
            if len(inside) == self.candidates:
                return inside
        nearest = max((total for _, total in candidates.values()), default=0.0)
        if not candidates:
            raise SteppeError(
                f"widths must be found that cost at most {allowed:,.6g} {cost.unit}",
                got=f"none among {DRAWS * self.candidates} draws",
                way_out="a lower sparsity, or budget pooled",
            )
        return inside or [w for w, total in candidates.values() if total == nearest]
