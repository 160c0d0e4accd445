"""What the layer solvers share: a Cholesky factor that does not give up at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer_problem import LayerProblem
from steppe.core.selection import apportion

__all__ = [
    "RETRIES",
    "dead_inputs",
    "definite_inverse",
    "factored",
    "indefinite",
    "refined",
    "shares",
]

RETRIES = 3  # how often the damping is raised tenfold before float64 is tried
_LEAF = 128  # smaller matrices are inverted by LAPACK
_OFF = 1e-2  # up to here a product of matrix and inverse may be away from the identity


def dead_inputs(gram: Tensor) -> Tensor:
    """Booleans ``[columns]``: inputs that calibration never saw other than zero."""
    return gram.diagonal() == 0


def shares(problem: LayerProblem, dead: Tensor, blocks: list[slice]) -> list[int]:
    """How many weights each block of columns loses, exactly ``problem.prune`` in all.

    First those of dead inputs, which cost nothing; of the others each block the same fraction.

    Args:
        problem: the layer.
        dead: booleans ``[columns]``.
        blocks: which columns a block has.
    """
    rows = problem.weight.shape[0]
    gone = {f"{b.start:09}": rows * int(dead[b].sum()) for b in blocks}
    live = {f"{b.start:09}": rows * (b.stop - b.start) - gone[f"{b.start:09}"] for b in blocks}
    first = min(problem.prune, sum(gone.values()))
    dropped = apportion(gone, gone, first)
    more = apportion(live, live, problem.prune - first)
    return [dropped[name] + more[name] for name in gone]


def factored(
    problem: LayerProblem, damping: float, matrix: Callable[[float, torch.dtype], Tensor]
) -> tuple[Tensor, float]:
    """The lower Cholesky factor of a damped matrix, with more damping if it must be.

    The damping is raised tenfold up to three times, then float64 is tried at the last one; every
    step down is told to ``problem.note``.

    Args:
        problem: whose layer is named in notes and errors.
        damping: the first one to try, above 0.
        matrix: ``(damping, dtype) -> [columns, columns]``, a new symmetric matrix each time.

    Returns:
        The factor ``[columns, columns]`` in float32, and the damping that it took.

    Raises:
        SteppeError: no attempt succeeded.
    """
    for attempt in range(RETRIES + 2):
        last = attempt > RETRIES
        dtype = torch.float64 if last else torch.float32
        factor, info = torch.linalg.cholesky_ex(matrix(damping, dtype))
        # a NaN may pass the factorisation, but then it stands in the last row
        if not int(info) and bool(factor[-1].isfinite().all()):
            return factor.float(), damping
        if last:
            break
        more = attempt < RETRIES
        damping *= 10 if more else 1
        problem.note(
            f"{problem.name}: the input gram is not positive definite in float32; tried again "
            + (f"with damping {damping:g}" if more else "in float64")
        )
    raise indefinite(problem, damping)


def indefinite(problem: LayerProblem, damping: float) -> SteppeError:
    """The error for a layer whose damped matrix is not positive definite, also in float64."""
    return SteppeError(
        f"the input gram of {problem.name} must be positive definite once damped",
        got=f"none at damping {damping:g}, also in float64",
        consequence="the layer cannot be solved",
        way_out="look for NaN or infinity in its calibration inputs, or raise the damping",
    )


def definite_inverse(matrix: Tensor, out: Tensor | None = None) -> Tensor:
    """The inverse of a symmetric positive definite matrix, almost all of it by matrix products.

    With blocks A, B, D and the Schur complement S = D - B'A^-1 B::

        [A  B]^-1   [A^-1 + Y X'  -Y ]
        [B' D]    = [-Y'         S^-1],   X = A^-1 B,  Y = X S^-1

    and A^-1, S^-1 in the same way: as many operations as 2/3 of a matrix product, where LAPACK's
    own inverse from a Cholesky factor takes the time of several. Rounding grows with the square
    of the condition number there, so the product with the matrix is looked at on two vectors;
    where it is off, the inverse is LAPACK's, whose rounding grows with the number itself.

    Args:
        matrix: ``[n, n]``; not changed.
        out: where the inverse goes, ``[n, n]``.

    Returns:
        The inverse ``[n, n]``; NaN where rounding leaves no positive definite matrix, also in
        float64.
    """
    out = _by_products(matrix, torch.empty_like(matrix) if out is None else out)
    turns = torch.tensor([1.0, 2.0], device=matrix.device)
    vectors = torch.arange(len(matrix), device=matrix.device)[:, None].mul(turns).cos()
    vectors = vectors.to(matrix.dtype)

    off = (matrix @ (out @ vectors)).sub_(vectors).norm() / vectors.norm()
    if float(off) <= _OFF:  # not so for NaN
        return out
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        factor, info = torch.linalg.cholesky_ex(matrix.double())
    return out.fill_(torch.nan) if int(info) else out.copy_(torch.cholesky_inverse(factor))


def _by_products(matrix: Tensor, out: Tensor) -> Tensor:
    half = len(matrix) // 2
    if len(matrix) <= _LEAF:
        # of a singular one too: its product with the matrix shows it
        return out.copy_(torch.linalg.inv_ex(matrix).inverse)
    top, corner, bottom = out[:half, :half], matrix[:half, half:], out[half:, half:]
    _by_products(matrix[:half, :half], top)
    x = top @ corner
    _by_products(torch.addmm(matrix[half:, half:], corner.t(), x, alpha=-1), bottom)
    y = x @ bottom
    top.addmm_(y, x.t())
    out[:half, half:] = y.neg_()
    out[half:, :half] = y.t()
    return out


def refined(
    hessian: Tensor, target: Tensor, start: Tensor, mask: Tensor, steps: int, tolerance: float = 0.0
) -> Tensor:
    """Conjugate gradients on the kept weights, each row a problem of its own.

    min over B, zero outside the mask, of tr((B - C) H (B - C)').

    Args:
        hessian: H ``[columns, columns]``, positive definite.
        target: C ``[rows, columns]``.
        start: the first B, zero outside the mask; may be overwritten.
        mask: ``[rows, columns]``, True = kept.
        steps: at most how many; none makes the error larger.
        tolerance: it ends when a step lowers the error by less than this fraction of it.

    Returns:
        B ``[rows, columns]``.
    """
    keep = mask.to(target.dtype)  # a product with it is several times faster than masked_fill
    result = start
    away = target - result
    residual = away @ hessian
    error = float(away.mul_(residual).sum(dtype=torch.float64))
    del away
    residual.mul_(keep)
    direction = residual.clone()
    square = (residual * residual).sum(1, keepdim=True)
    tiny = torch.finfo(square.dtype).tiny
    for _ in range(steps):
        image = direction @ hessian
        step = square / (direction * image).sum(1, keepdim=True).clamp_min_(tiny)
        result.addcmul_(step, direction)
        gain = float((step * square).sum(dtype=torch.float64))
        error -= gain
        if gain <= tolerance * error:
            break
        residual.addcmul_(step, image.mul_(keep), value=-1)
        last, square = square, (residual * residual).sum(1, keepdim=True)
        direction.mul_(square / last.clamp_min(tiny)).add_(residual)
    return result
