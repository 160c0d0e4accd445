"""Column by column: prune, and let the columns to the right make up for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer_problem import LayerProblem
from steppe.core.protocols import LayerSolver
from steppe.coupling.least_squares.damped_cholesky import dead_inputs, factored, shares

if TYPE_CHECKING:
    from steppe.method import Method

_STRIP = 16  # columns that are updated one by one; beyond, by matrix products


@LayerSolver.registry.register("obs_update")
@dataclass(frozen=True, kw_only=True)
class ObsUpdate(LayerSolver):
    """Optimal brain surgeon in one sweep over the columns.

    H = G + damping mean(diag G) I and H^-1 = U'U, U upper. Column j, from left to right:
    ``e = (w_j - q_j) / U_jj`` with q_j the pruned w_j, then ``W[:, j:] -= e U[j, j:]``. The mask
    of ``block`` columns (of M columns for N:M) is chosen when the sweep reaches them.

    U is never formed. With H = S S', S upper, U = S^-1, and the errors so far are E = D S with
    D = W0 - W. So when the sweep reaches a block B, all that is left of it changes the block by
    ``D[:, left] S[left, B] S[B, B]^-1``: one factorisation without any inverse, and one matrix
    product per block. The weights are held transposed, so that a column is contiguous.

    Inputs that were always zero have H_jj = 1; their weights become 0 and are pruned first.

    Args:
        damping: of the Hessian, as a fraction of its mean diagonal.
        block: columns whose mask is chosen together; rounded up to a multiple of N:M's M.

    Source: SparseGPT (Frantar & Alistarh 2023), algorithm 1.
    """

    damping: float = 0.01
    block: int = 128
    name = "obs_update"
    needs = ("gram",)
    provides = ("obs_scale",)
    ranks_by = "obs"

    def __post_init__(self) -> None:
        if not 0.0 < self.damping < float("inf") or self.block < 1:
            raise SteppeError(
                "obs_update needs a finite damping above 0 and a block of at least one column",
                got=f"damping {self.damping}, block {self.block}",
                way_out="damping 0.01, block 128",
            )

    def fits(self, method: Method) -> None:
        if method.structure.columns is None:
            raise SteppeError(
                "obs_update prunes column by column, so rows must not be tied",
                got=f"structure {method.structure.name}",
                way_out="use structure unstructured or N:M",
            )

    def memory(self, rows: int, columns: int) -> int:
        return super().memory(rows, columns) + 2 * columns**2

    def solve(self, problem: LayerProblem) -> tuple[Tensor, Tensor]:
        if not problem.prune:
            return problem.weight.clone(), torch.ones_like(problem.weight, dtype=torch.bool)
        gram, size = problem.statistics["gram"], problem.weight.shape[1]
        dead = dead_inputs(gram)

        def reversed_hessian(damping: float, dtype: torch.dtype) -> Tensor:
            hessian = gram.to(dtype).flip(0, 1)
            diagonal = hessian.diagonal()
            diagonal.add_(damping * diagonal.mean()).masked_fill_(dead.flip(0), 1.0)
            return hessian

        # the lower factor of the reversed matrix, reversed again, is the upper factor
        upper = factored(problem, self.damping, reversed_hessian)[0].flip(0, 1)
        weight = problem.weight.t().contiguous()
        weight[dead] = 0.0
        pruned = torch.empty_like(weight, dtype=torch.bool)
        change = torch.empty_like(weight)
        step = -(-self.block // problem.multiple) * problem.multiple
        unit = torch.eye(min(step, size), device=gram.device)
        blocks = [slice(i, min(i + step, size)) for i in range(0, size, step)]
        for columns, prune in zip(blocks, shares(problem, dead, blocks), strict=True):
            before, n = slice(0, columns.start), columns.stop - columns.start
            corner = upper[columns, columns]
            inverse = torch.linalg.solve_triangular(corner, unit[:n, :n], upper=True)
            current = weight[columns].clone()
            if columns.start:
                current.addmm_(inverse.t(), upper[before, columns].t() @ change[before])
            current -= _sweep(problem, columns, prune, current, inverse, pruned[columns])
            torch.sub(weight[columns], current, out=change[columns])
            weight[columns] = current
        return weight.t().contiguous(), ~pruned.t().contiguous()


def _sweep(
    problem: LayerProblem, columns: slice, prune: int, weight: Tensor, upper: Tensor, pruned: Tensor
) -> Tensor:
    """The columns of one block: what is taken from them where they are pruned.

    Args:
        problem: chooses the mask.
        columns: which of the layer's columns they are.
        prune: how many of their weights go.
        weight: ``[block, rows]``, made up for all columns left of the block; changed.
        upper: U of the block, ``[block, block]``.
        pruned: ``[block, rows]`` booleans; filled.

    Returns:
        The pruned weights as they were when the sweep reached them, 0 elsewhere.
    """
    size, group = len(weight), problem.multiple
    diagonal = upper.diagonal()
    unit = upper / diagonal[:, None]  # so that e is w - q itself
    drop, error = torch.empty_like(weight), torch.empty_like(weight)

    def choose(start: int, stop: int, prune: int) -> None:
        where = slice(columns.start + start, columns.start + stop)
        extra = {"obs_scale": diagonal[None, start:stop]}
        saliency = problem.saliency(weight[start:stop].t(), where, extra)
        saliency = saliency.contiguous() if group == 1 else saliency
        pruned[start:stop] = drop[start:stop] = ~problem.select(saliency, prune, where).t()

    strip = -(-_STRIP // group) * group
    if group == 1:
        choose(0, size, prune)
        group = strip
    for j in range(size):
        first, here = j // strip * strip, j // group * group
        # what the columns before a strip change in it, and then those before a group in that
        if j == first and j:
            weight[j : j + strip].addmm_(unit[:j, j : j + strip].t(), error[:j], alpha=-1)
        elif j == here and j:
            part = slice(j, j + group)
            weight[part].addmm_(unit[first:j, part].t(), error[first:j], alpha=-1)
        if j == here and problem.multiple > 1:
            choose(j, min(j + group, size), 0)
        if j > here:
            weight[j].addmv_(error[here:j].t(), unit[here:j, j], alpha=-1)
        torch.mul(weight[j], drop[j], out=error[j])
    return error
