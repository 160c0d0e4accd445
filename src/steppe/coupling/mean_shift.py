"""Weights that are gone leave what they gave in the mean to the layer's bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer_problem import LayerProblem
from steppe.core.protocols import LayerSolver

if TYPE_CHECKING:
    from steppe.method import Method


@LayerSolver.registry.register("mean_shift")
@dataclass(frozen=True, kw_only=True)
class MeanShift(LayerSolver):
    """w <- m * w, and b <- b + ((1 - m) * w) E[x].

    What stays is not changed. Among all shifts of the bias this is the one with the least error
    E||W x + b - (W0 x + b0)||^2: what is left is the fluctuation of what is gone.

    The layers need biases: a model whose config has a flag for them gets them, others are refused.

    Source: FLAP (An et al. 2024, arXiv 2312.11983), bias compensation.
    """

    name = "mean_shift"
    needs = ("activation_mean",)
    ranks_by = "fluctuation"
    shifts = True

    def fits(self, method: Method) -> None:
        if method.structure.removes is None:
            raise SteppeError(
                "mean_shift makes up for whole inputs that are cut out",
                got=f"structure {method.structure.name}",
                way_out="structure neurons, heads or neurons+heads; for others coupling hard_mask",
            )

    def solve(self, problem: LayerProblem) -> tuple[Tensor, Tensor]:
        weight = problem.weight
        mask = problem.select(problem.saliency(weight), problem.prune)
        gone = weight.masked_fill(mask, 0.0)
        problem.shift = gone @ problem.statistics["activation_mean"][0]
        return weight.masked_fill(~mask, 0.0), mask
