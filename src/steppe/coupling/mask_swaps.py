"""The mask of another solver, improved by exchanging one kept weight of a row for a pruned one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer_problem import LayerProblem
from steppe.core.protocols import AnyCoupling, LayerSolver
from steppe.coupling.least_squares.damped_cholesky import dead_inputs, refined
from steppe.coupling.swaps.exchange import exchanged, memory

if TYPE_CHECKING:
    from steppe.method import Method


@LayerSolver.registry.register("mask_swaps")
@dataclass(frozen=True, kw_only=True)
class MaskSwaps(LayerSolver):
    """Another solver's solution, whose mask is then improved row by row, and fitted on it.

    With d = w0 - w what a row lost and c = G d, exchanging the kept weight p for the pruned q,
    which comes back as w0_q, changes the row's error d'Gd by::

        2 w_p c_p + w_p^2 G_pp - 2 w0_q c_q + w0_q^2 G_qq - 2 w_p w0_q G_pq

    The pair for which this is least, of all pairs, is exchanged while it is negative; each row
    keeps its number of zeros, and so do the groups of N:M. Then conjugate gradients find the
    weights on the support: least squares with G + damping mean(diag G) I. No exchange makes d'Gd
    larger, and no step of the fit the damped error, whatever the solver.

    Inputs that were always zero are pruned first.

    Args:
        solver: a coupling that solves one layer, by name or ``{"name": ..., option: value}``.
        swaps: exchanges of a row, at most.
        refine: steps of conjugate gradients, at most; 0 leaves the weights as they are.
        tolerance: they end when one lowers the error by less than this fraction of it.
        damping: of the Hessian for them, as a fraction of its mean diagonal.

    Source: SparseSwaps (arXiv 2512.10922); there the kept weights keep their values.
    """

    solver: Any = "hard_mask"
    swaps: int = 100
    refine: int = 30
    tolerance: float = 1e-4
    damping: float = 0.01
    name = "mask_swaps"
    needs = ("gram",)

    def __post_init__(self) -> None:
        if self.swaps < 0 or self.refine < 0 or not 0.0 < self.damping < float("inf"):
            raise SteppeError(
                "mask_swaps needs swaps >= 0, refine >= 0 and a finite damping above 0",
                got=f"swaps {self.swaps}, refine {self.refine}, damping {self.damping}",
                way_out="swaps 100, refine 30, damping 0.01",
            )
        solver = AnyCoupling.make(self.solver)
        if not isinstance(solver, LayerSolver):
            raise SteppeError(
                "mask_swaps refines a coupling that solves a layer at once",
                got=f"solver {solver.name}",
                way_out="hard_mask (the score alone), obs_update (SparseGPT) or layer_admm (ALPS)",
            )
        own = {
            "solver": solver,
            "needs": tuple(sorted({*solver.needs, *type(self).needs})),
            "provides": solver.provides,
            "ranks_by": solver.ranks_by,
        }
        for name, value in own.items():  # what the engine asks of it is what it asks of both
            object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"solver": self.solver.to_dict()}

    def fits(self, method: Method) -> None:
        if method.structure.columns is None:
            raise SteppeError(
                "mask_swaps exchanges single weights of a row, so rows must not be tied",
                got=f"structure {method.structure.name}",
                way_out="use structure unstructured or N:M, or no swaps",
            )
        self.solver.check_fits(method)

    def changed_since(self, stored: Mapping[str, Any], method: Method) -> str:
        return str(self.solver.changed_since(stored["solver"], method))

    def memory(self, rows: int, columns: int) -> int:
        fit = 10 * rows * columns + columns**2
        return max(int(self.solver.memory(rows, columns)), memory(rows, columns), fit)

    def solve(self, problem: LayerProblem) -> tuple[Tensor, Tensor]:
        if not problem.prune:
            return problem.weight.clone(), torch.ones_like(problem.weight, dtype=torch.bool)
        gram = problem.statistics["gram"]
        dead = dead_inputs(gram)
        seen = problem.weight.masked_fill(dead, 0.0)  # so that they are pruned first
        weight, mask = self.solver.solve(dataclasses.replace(problem, weight=seen))
        weight, mask = exchanged(
            gram, seen, weight, mask, self.swaps, problem.multiple, problem.gone
        )
        if self.refine:
            weight = self._fitted(gram, dead, seen, weight, mask)
        return weight.where(mask, 0.0), mask

    def _fitted(
        self, gram: Tensor, dead: Tensor, dense: Tensor, weight: Tensor, mask: Tensor
    ) -> Tensor:
        """Least squares on the mask, from the weights that are there."""
        diagonal = gram.diagonal()
        scale = (diagonal + self.damping * diagonal.mean()).masked_fill(dead, 1.0).sqrt()
        hessian = (gram / scale).div_(scale[:, None])
        hessian.diagonal().fill_(1.0)
        fitted = refined(hessian, dense * scale, weight * scale, mask, self.refine, self.tolerance)
        return fitted.div_(scale)
