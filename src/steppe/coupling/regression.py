"""Whole units of a layer's inputs gone, the rest fitted exactly to stand in for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer_problem import LayerProblem
from steppe.core.protocols import LayerSolver
from steppe.coupling.least_squares.damped_cholesky import dead_inputs, factored, refined

if TYPE_CHECKING:
    from steppe.method import Method

_STEPS = 30  # of conjugate gradients, where single weights were zero before


@LayerSolver.registry.register("regression")
@dataclass(frozen=True, kw_only=True)
class Regression(LayerSolver):
    """min tr((W - W0) H (W - W0)') over W whose columns outside of K are zero.

    With H = G + damping mean(diag G) I the minimum is::

        W_K = W0 H_:K (H_KK)^-1,        error  sum_U tr(W_U ((H^-1)_UU)^-1 W_U') if one unit U goes

    Greedy: the unit whose loss costs the least error after the fit goes first, W and H^-1 are
    those of the rest, and so on; as many at once as leave ``rounds`` rounds. Otherwise the score
    chooses all units at once. The weights are then computed anew from W0.

    Inputs that were always zero go first. Weights that were zero before stay so: there conjugate
    gradients find the minimum on what is left.

    A round costs columns^2 (columns / rounds + units) operations and as much memory as H twice.

    Args:
        greedy: whether units are chosen by the error that their loss costs; else by the score.
        rounds: of the greedy choice, at most.
        damping: of H, as a fraction of G's mean diagonal.

    Source: for one weight Hassibi & Stork 1993; in whole columns ZipLM (Kurtic et al. 2023).
    """

    greedy: bool = True
    rounds: int = 256
    damping: float = 0.01
    name = "regression"
    needs = ("gram",)

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 0.0 < self.damping < float("inf"):
            raise SteppeError(
                "regression needs a round at least, and a damping above 0",
                got=f"rounds {self.rounds}, damping {self.damping}",
                way_out="rounds 256, damping 0.01",
            )

    def fits(self, method: Method) -> None:
        if not method.structure.whole_inputs:
            raise SteppeError(
                "regression fits the columns that stay of a layer of which whole columns go",
                got=f"structure {method.structure.name}",
                way_out="structure neurons, heads or neurons+heads; for single weights layer_admm",
            )

    def memory(self, rows: int, columns: int) -> int:
        return super().memory(rows, columns) + 3 * columns**2

    def solve(self, problem: LayerProblem) -> tuple[Tensor, Tensor]:
        weight, unit = problem.weight, problem.unit
        if not problem.prune:
            return weight.clone(), torch.ones_like(weight, dtype=torch.bool)
        gram = problem.statistics["gram"]
        dead = dead_inputs(gram)

        def damped(damping: float, dtype: torch.dtype) -> Tensor:
            hessian = gram.to(dtype, copy=True)
            size = float(hessian.diagonal().mean()) or 1.0  # no input was ever seen
            hessian.diagonal().add_(damping * size)
            return hessian

        factor, damping = factored(problem, self.damping, damped)
        hessian = damped(damping, torch.float32)
        if self.greedy:
            start = weight.masked_fill(dead, 0.0)
            kept = self._chosen(start, torch.cholesky_inverse(factor), unit, problem.prune)
            ranks = kept.float().expand_as(weight)
            mask = problem.choose(ranks, problem.prune)
        else:
            mask = problem.select(problem.saliency(weight), problem.prune)
        del factor
        if problem.gone is not None:
            mask = mask & ~problem.gone
            fitted = refined(hessian, weight, weight.masked_fill(~mask, 0.0), mask, _STEPS)
            return fitted.masked_fill_(~mask, 0.0), mask
        columns = mask[0].nonzero().flatten()
        new = torch.zeros_like(weight)
        new[:, columns] = _ridge(weight, hessian, columns)
        return new, mask

    def _chosen(self, weight: Tensor, inverse: Tensor, unit: int, prune: int) -> Tensor:
        """Which columns stay, ``[columns]`` booleans, by the greedy choice."""
        units = weight.shape[1] // unit
        places = torch.arange(weight.shape[1], device=weight.device).view(units, unit)
        alive = torch.ones(units, dtype=torch.bool, device=weight.device)
        weight, left = weight.clone(), prune
        for number in range(min(self.rounds, prune)):
            at_once = -(-left // (min(self.rounds, prune) - number))
            cost = _costs(weight, inverse, places).masked_fill_(~alive, torch.inf)
            gone = cost.topk(at_once, largest=False).indices
            alive[gone], left = False, left - at_once
            if not left:
                break
            columns = places[gone].flatten()
            small, strip = inverse[columns][:, columns], inverse[columns]
            step = torch.linalg.solve(small, strip)
            weight -= weight[:, columns] @ step
            inverse -= strip.t() @ step
            weight[:, columns] = 0.0
            inverse[columns], inverse[:, columns] = 0.0, 0.0
            inverse[columns, columns] = 1.0
        return alive.repeat_interleave(unit)


def _ridge(weight: Tensor, hessian: Tensor, columns: Tensor) -> Tensor:
    """W0 H_:K (H_KK)^-1, ``[rows, columns that stay]``."""
    strip = hessian[:, columns]
    for dtype in (torch.float32, torch.float64):
        inner, info = torch.linalg.cholesky_ex(strip[columns].to(dtype))
        if not int(info):
            break
    assert not int(info), "a part of a positive definite matrix is one"
    return torch.cholesky_solve((weight @ strip).t().to(dtype), inner).t().float()


def _costs(weight: Tensor, inverse: Tensor, places: Tensor) -> Tensor:
    """The error that each unit's loss costs once the others are fitted, ``[units]``."""
    units, unit = places.shape
    if unit == 1:
        return weight.square().sum(0) / inverse.diagonal()
    own = torch.stack([inverse[p][:, p] for p in places])
    inside = weight.view(-1, units, unit).permute(1, 2, 0)  # [units, unit, rows]
    lost: Tensor = (inside * torch.linalg.solve(own, inside)).sum((1, 2))
    return lost
