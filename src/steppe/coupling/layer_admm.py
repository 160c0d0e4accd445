"""ADMM on one layer's quadratic problem, then conjugate gradients on what it keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer_problem import LayerProblem
from steppe.core.protocols import LayerSolver
from steppe.coupling.least_squares.damped_cholesky import (
    dead_inputs,
    definite_inverse,
    factored,
    indefinite,
    refined,
)

_SEPARABLE = 1e-5  # up to here the geometric mean of H's eigenvalues differs from 1 by rounding


@LayerSolver.registry.register("layer_admm")
@dataclass(frozen=True, kw_only=True)
class LayerAdmm(LayerSolver):
    """min tr((B - C) H (B - C)') over B with so many zeros, C = W0 E, in scaled coordinates.

    G + damping mean(diag G) I = E H E with H's diagonal 1. Scaled ADMM from D = C, U = 0::

        X <- (C H + rho (D - U)) (H + rho I)^-1 + U,   D <- P_k(X),   U <- X - D

    then the support of D is kept, up to ``refine`` conjugate gradients on it find the weights,
    and W = D E^-1. P_k ranks by the method's score, in the scaled coordinates. Should the error
    end above that of P_k(C), its support is taken, and that is noted.

    Departures from the authors' code, each for equal or lower error in fewer operations:

    * rho is measured in the geometric mean g of H's eigenvalues, from the Cholesky factor, and
      goes from ``start`` g to ``end`` g in ``levels`` equal ratios. Theirs starts at 0.1 whatever
      H is and grows by the support's changes, thus spends many iterations on the way to about g.
      (g <= 1, and g = 1 only when H = I, where magnitude is exact: Hadamard's inequality.)
    * As C H (H + rho I)^-1 = C - rho C (H + rho I)^-1, an iteration is one matrix product, and
      (H + rho I)^-1 is formed once a level from products; theirs has an eigendecomposition in
      float64.
    * The support is D's and not that of the projected X - U, so N:M and counts hold as chosen.

    Inputs that were always zero have H_jj = 1; their weights become 0 and are pruned first.

    Args:
        iterations: of ADMM.
        start: rho at first, in units of g.
        end: rho at last.
        levels: how many values rho takes.
        refine: steps of conjugate gradients, at most.
        tolerance: they end when one lowers the error by less than this fraction of it.
        damping: of the Hessian, as a fraction of its mean diagonal.

    Source: ALPS (Meng et al. 2024), algorithm 1.
    """

    iterations: int = 24
    start: float = 0.4
    end: float = 1.5
    levels: int = 4
    refine: int = 10
    tolerance: float = 3e-4
    damping: float = 0.01
    name = "layer_admm"
    needs = ("gram",)
    ranks_by = "magnitude"

    def __post_init__(self) -> None:
        if not (0.0 < self.start <= self.end < float("inf") and 0.0 < self.damping < float("inf")):
            raise SteppeError(
                "layer_admm needs 0 < start <= end and a damping above 0, all finite",
                got=f"start {self.start}, end {self.end}, damping {self.damping}",
                way_out="start 0.4, end 1.5, damping 0.01",
            )
        if not 1 <= self.levels <= self.iterations or self.refine < 0:
            raise SteppeError(
                "layer_admm needs at least one iteration for each of its levels, and refine >= 0",
                got=f"iterations {self.iterations}, levels {self.levels}, refine {self.refine}",
                way_out="iterations 24, levels 4, refine 10",
            )

    def memory(self, rows: int, columns: int) -> int:
        return super().memory(rows, columns) + 4 * columns**2

    def solve(self, problem: LayerProblem) -> tuple[Tensor, Tensor]:
        if not problem.prune:
            return problem.weight.clone(), torch.ones_like(problem.weight, dtype=torch.bool)
        gram = problem.statistics["gram"]
        dead = dead_inputs(gram)

        def damped(damping: float) -> Tensor:
            return (gram.diagonal() + damping * gram.diagonal().mean()).masked_fill_(dead, 1.0)

        def scaled(damping: float, dtype: torch.dtype) -> Tensor:
            scale = damped(damping).to(dtype).rsqrt()
            hessian = (gram.to(dtype) * scale).mul_(scale[:, None])
            hessian.diagonal().fill_(1.0)
            return hessian

        factor, damping = factored(problem, self.damping, scaled)
        mean = math.exp(2.0 * float(factor.diagonal().double().log().mean()))
        del factor
        hessian, scale = scaled(damping, torch.float32), damped(damping).sqrt()
        target = problem.weight * scale
        target[:, dead] = 0.0
        sparse, mask = self._admm(problem, hessian, target, mean)
        sparse = refined(hessian, target, sparse, mask, self.refine, self.tolerance)
        first = problem.select(problem.saliency(target), problem.prune)
        if not _error(hessian, target - sparse) <= _error(hessian, target.masked_fill(first, 0.0)):
            problem.note(f"{problem.name}: ADMM ended above its first projection, which is taken")
            mask, sparse = first, target.masked_fill(~first, 0.0)
            sparse = refined(hessian, target, sparse, mask, self.refine, self.tolerance)
        return sparse.div_(scale).masked_fill_(~mask, 0.0), mask

    def _admm(
        self, problem: LayerProblem, hessian: Tensor, target: Tensor, mean: float
    ) -> tuple[Tensor, Tensor]:
        """D ``[rows, columns]`` and its mask after all iterations."""
        x, mask = target.clone(), problem.select(problem.saliency(target), problem.prune)
        if mean > 1.0 - _SEPARABLE:
            return x.masked_fill_(~mask, 0.0), mask
        level, rho, inverse = -1, 0.0, torch.empty_like(hessian)
        for iteration in range(self.iterations):
            wanted = iteration * self.levels // self.iterations
            dual = x * ~mask if iteration else torch.zeros_like(x)
            x -= dual  # now D
            if wanted != level:
                before, level, growth = rho, wanted, self.end / self.start
                rho = mean * self.start * growth ** (level / max(self.levels - 1, 1))
                shifted = hessian.clone()
                shifted.diagonal().add_(rho)
                if not bool(definite_inverse(shifted, inverse).isfinite().all()):
                    raise indefinite(problem, self.damping)
                dual *= before / rho  # U is the multiplier over rho
            dual += target
            x -= dual
            x = dual.addmm_(x, inverse, alpha=rho)
            mask = problem.select(problem.saliency(x), problem.prune)
        return x.masked_fill_(~mask, 0.0), mask


def _error(hessian: Tensor, away: Tensor) -> float:
    """tr(A H A'); of what is not finite, NaN or infinity."""
    return float((away @ hessian).mul_(away).sum(dtype=torch.float64))
