"""Dimensions of a residual stream gone: its norms and what reads them make up for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer_problem import LayerProblem
from steppe.core.protocols import LayerSolver, StreamSolver

if TYPE_CHECKING:
    from steppe.method import Method


@LayerSolver.registry.register("reread")
@dataclass(frozen=True, kw_only=True)
class Reread(StreamSolver):
    """n' = s n, and W' = W M with M = E[n0 n'] (E[n' n'] + d I)^-1, block after block.

    n0 is what a norm gives in the dense model, n' what it gives once the dimensions are gone, in
    the model so far. A norm's mean is then over fewer dimensions, so that what it gives has
    another size: s gives what stays the size that it had, s^2 E||n'||^2 = E||n0||^2, shifts
    apart. M gives what reads a norm the least E||n0 - M n'||^2, whatever it computes, so that
    kept dimensions stand in for lost ones. d draws M towards s I, by ``damping`` of the mean of
    E[n' n'].

    A norm is scaled where nothing that it gives is read by layers that are fitted. What reads
    something else than a norm of its block keeps its weights, and so does a head that is the
    embedding.

    ``norm_output``, ``[dimensions]``: the mean of |n0| over tokens, and over all norms.

    Args:
        scale: whether what norms give is scaled.
        fit: whether what reads them is fitted.
        damping: of the fit.

    Source: the fit as SparseGPT's and ZipLM's least squares, for inputs that go everywhere; the
        dense model's side as in GPTAQ (Li et al. 2025).
    """

    damping: float = 0.01
    name = "reread"
    provides = ("norm_output",)

    def __post_init__(self) -> None:
        if not 0.0 < self.damping < float("inf"):
            raise SteppeError(
                "reread needs a damping above 0", got=f"{self.damping}", way_out="0.01"
            )

    def fits(self, method: Method) -> None:
        if method.structure.removes != "hidden":
            raise SteppeError(
                "norms and what reads them make up for dimensions of their stream",
                got=f"structure {method.structure.name}",
                way_out="structure hidden",
            )

    def matrix(self, cross: Tensor, gram: Tensor, places: Tensor, factor: float) -> Tensor:
        damping = self.damping * float(gram.diagonal().mean())
        damped, aimed = gram.double().clone(), cross.double().clone()
        damped.diagonal().add_(damping or 1.0)
        aimed[places, torch.arange(len(places), device=places.device)] += (damping or 1.0) * factor
        solved: Tensor = torch.linalg.solve(damped, aimed.t()).t()
        return solved

    def memory(self, rows: int, columns: int) -> int:
        # two matrices of the stream's width, twice, in float64; one side of a layer has that width
        return super().memory(rows, columns) + 8 * min(rows, columns) ** 2

    def solve(self, problem: LayerProblem) -> tuple[Tensor, Tensor]:
        mask = problem.select(problem.saliency(problem.weight), problem.prune)
        return problem.weight.masked_fill(~mask, 0.0), mask
