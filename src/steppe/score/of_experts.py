"""What the scores of experts share: one number for each, from what its mixture computes."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.score.provided import ProvidedScore


@dataclass(frozen=True, kw_only=True)
class ExpertScore(ProvidedScore):
    """The one statistic that it needs, the same for all weights of an expert."""

    ranks = "the experts of mixtures, whose tokens others take over"
    parts = "coupling reroute and structure experts, as method reap has them"
