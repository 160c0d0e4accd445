"""How many tokens an expert gets."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.protocols import Score
from steppe.score.of_experts import ExpertScore


@Score.registry.register("routing_frequency")
@dataclass(frozen=True, kw_only=True)
class RoutingFrequency(ExpertScore):
    """The share of all tokens that are routed to the expert.

    Source: as the counting of SEER-MoE (Muzio et al. 2024, arXiv 2404.05089).
    """

    name = "routing_frequency"
    needs = ("expert_tokens",)
