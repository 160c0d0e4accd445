"""The largest eigenvalues of the Hessian.

The eigen iteration is ARPACK's implicitly restarted Lanczos, through `scipy.sparse.linalg.eigsh`
with Hessian-vector products by double backward. curvlinops would give the products too, but it
imports backpack, which imports torchvision, and that does not import beside this torch (2.13);
one double backward is not worth such a chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.robustness.surface import Batches, Loss, Surface, evaluating, finite

# below this many coordinates the whole Hessian is cheaper than a Krylov space of it
_SMALL = 20


@dataclass(frozen=True)
class HessianTop:
    """The k largest (algebraic) eigenvalues, largest first, and the number of products.

    Args:
        eigenvalues: in units of loss per weight squared.
        iterations: Hessian-vector products taken.
        converged: False: the last one is only a lower bound (see `hessian_top`).

    Example:
        >>> HessianTop((3.0, 1.0), iterations=21, converged=True).eigenvalue
        3.0
    """

    eigenvalues: tuple[float, ...]
    iterations: int
    converged: bool

    @property
    def eigenvalue(self) -> float:
        """The largest."""
        return self.eigenvalues[0]


class _BudgetSpent(Exception):
    """The budget of products is used up."""


class _Products:
    """v -> H v between numpy and torch; counts, checks, remembers the best Rayleigh quotient."""

    def __init__(self, surface: Surface, budget: int) -> None:
        self.surface, self.budget = surface, budget
        self.count, self.best = 0, -np.inf

    def __call__(self, vector: NDArray[np.floating]) -> NDArray[np.floating]:
        if self.count >= self.budget:
            raise _BudgetSpent
        flat = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1)))
        product: NDArray[np.floating] = (
            self.surface.hessian_product(flat.to(self.surface.device)).cpu().numpy()
        )
        self.count += 1
        quotient = float(vector.reshape(-1) @ product) / max(float((vector**2).sum()), 1e-300)
        way_out = "check the weights and the batches, or use float32 and a smooth loss"
        self.best = max(self.best, finite(quotient, "the Hessian times a vector", way_out))
        return product


def _top_of_small(products: _Products, n: int, k: int) -> tuple[float, ...]:
    products.budget = n
    hessian = np.stack([products(row) for row in np.eye(n, dtype=_numpy_dtype(products.surface))])
    values = np.linalg.eigvalsh((hessian + hessian.T).astype(np.float64) / 2)
    return tuple(float(v) for v in values[::-1][:k])


def _numpy_dtype(surface: Surface) -> type[np.floating]:
    return np.float64 if surface.dtype == torch.float64 else np.float32


def hessian_top(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    k: int = 1,
    masks: Mapping[str, Tensor] | None = None,
    tolerance: float = 1e-3,
    max_products: int = 500,
    seed: int = 0,
    strict: bool = True,
) -> HessianTop:
    """The largest eigenvalues of the Hessian of the mean loss, batch norm in eval mode.

    ``H = d^2 L / dw^2``, ``L = mean over all examples of loss(model(x), y)``, w all parameters that
    require grad. With masks: the principal submatrix of H on the surviving coordinates.

    Args:
        model: the network; its weights, gradients and modes are left as they are.
        loss_fn: (output, target) -> mean loss of the batch, twice differentiable.
        batches: list of (x, y).
        k: how many eigenvalues.
        masks: parameter name -> booleans, True = survives; None: all weights.
        tolerance: of an eigenvalue, relative.
        max_products: Hessian-vector products at most; each is about four forward passes.
        seed: of the start vector.
        strict: raise when the budget is spent; else return ``converged=False`` with the largest
            Rayleigh quotient v'Hv / v'v met, a lower bound of the top eigenvalue.

    Returns:
        The eigenvalues, largest first; at most as many as there are coordinates.

    Raises:
        SteppeError: no convergence (strict), NaN, no batch, bad masks, k or tolerance.

    Source: Lehoucq, Sorensen, Yang 1998 (ARPACK); the eigenvalue of SAFE (ICML 2025), figure 1.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])   # mean (w.x)^2 / 2: H = diag(4, 1) / 2
        >>> loss = lambda out, y: (out**2).mean() / 2
        >>> round(hessian_top(model, loss, [(x, x)]).eigenvalue, 4)
        2.0
    """
    if k < 1 or not 0.0 < tolerance < 1.0 or max_products < 1:
        raise SteppeError(
            "hessian_top needs k >= 1, a tolerance in (0, 1), max_products >= 1",
            got=f"k {k}, tolerance {tolerance}, max_products {max_products}",
        )
    with evaluating(model):
        surface = Surface(model, loss_fn, batches, masks)
        products, n = _Products(surface, max_products), surface.size
        if n <= max(_SMALL, 2 * k + 1):
            return HessianTop(_top_of_small(products, n, k), products.count, True)
        return _lanczos(products, n, k, tolerance, seed, strict)


def _lanczos(
    products: _Products, n: int, k: int, tolerance: float, seed: int, strict: bool
) -> HessianTop:
    dtype = _numpy_dtype(products.surface)
    start = np.random.default_rng(seed).standard_normal(n).astype(dtype)
    try:
        if not products(start).any():  # a loss linear in the weights; ARPACK would refuse H = 0
            return HessianTop((0.0,) * k, products.count, True)
        operator = LinearOperator((n, n), matvec=products, dtype=dtype)
        eigenvalues = eigsh(
            operator,
            k,
            which="LA",
            v0=start,
            tol=tolerance,
            maxiter=products.budget,  # in restarts; the budget of products ends it first
            return_eigenvectors=False,
        )
        return HessianTop(
            tuple(sorted(map(float, eigenvalues), reverse=True)), products.count, True
        )
    except (_BudgetSpent, ArpackError) as error:
        if strict:
            raise SteppeError(
                "the top Hessian eigenvalue must converge",
                got=f"none within {tolerance:g} after {products.count} products"
                + ("" if isinstance(error, _BudgetSpent) else f" ({error})"),
                way_out="raise max_products (--max-products) or tolerance; strict=False gives a "
                "lower bound",
            ) from error
        return HessianTop((products.best,), products.count, False)
