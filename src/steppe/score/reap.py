"""What an expert adds to its mixture's output, on the tokens that it gets."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.protocols import Score
from steppe.score.of_experts import ExpertScore


@Score.registry.register("reap")
@dataclass(frozen=True, kw_only=True)
class Reap(ExpertScore):
    """E[g_j(x) ||f_j(x)||_2] over the tokens x that are routed to expert j, 0 where none is.

    g_j(x) is the weight of the expert's output f_j(x) in the sum, as the router gives it.

    Source: REAP (Lasby et al. 2025, arXiv 2510.13999).
    """

    name = "reap"
    needs = ("expert_output",)
