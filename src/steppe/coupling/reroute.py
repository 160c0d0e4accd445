"""Whole experts gone: the router sends their tokens to those that stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer_problem import LayerProblem
from steppe.core.protocols import LayerSolver

if TYPE_CHECKING:
    from steppe.method import Method


@LayerSolver.registry.register("reroute")
@dataclass(frozen=True, kw_only=True)
class Reroute(LayerSolver):
    """What goes is gone, what stays is as it was: the router chooses among fewer experts.

    What a router and its experts compute is seen where text goes through the mixture:
    ``expert_output``, the mean of g_j(x) ||f_j(x)|| over the tokens x that expert j gets,
    ``expert_tokens``, its share of all tokens, and ``expert_gate``, the mean of g_j(x) over all
    tokens, each ``[experts, 1, 1]``.
    """

    name = "reroute"
    provides = ("expert_output", "expert_tokens", "expert_gate")

    def fits(self, method: Method) -> None:
        if method.structure.removes != "experts":
            raise SteppeError(
                "tokens are sent to other experts where whole experts go",
                got=f"structure {method.structure.name}",
                way_out="structure experts",
            )

    def solve(self, problem: LayerProblem) -> tuple[Tensor, Tensor]:
        mask = problem.select(problem.saliency(problem.weight), problem.prune)
        return problem.weight.masked_fill(~mask, 0.0), mask
