"""How much weight a router gives to an expert in all."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.protocols import Score
from steppe.score.of_experts import ExpertScore


@Score.registry.register("gate_mass")
@dataclass(frozen=True, kw_only=True)
class GateMass(ExpertScore):
    """E[g_j(x)] over all tokens x, 0 where the router does not choose the expert.

    Source: after the counting of SEER-MoE (Muzio et al. 2024, arXiv 2404.05089).
    """

    name = "gate_mass"
    needs = ("expert_gate",)
