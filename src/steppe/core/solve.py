"""What the layer solvers share: a Cholesky factor that does not give up at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.problem import Problem

__all__ = ["RETRIES", "dead_inputs", "factored"]

RETRIES = 3  # how often the damping is raised tenfold before float64 is tried


def dead_inputs(gram: Tensor) -> Tensor:
    """Booleans ``[columns]``: inputs that calibration never saw other than zero."""
    return gram.diagonal() == 0


def factored(
    problem: Problem, damping: float, matrix: Callable[[float, torch.dtype], Tensor]
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
    raise SteppeError(
        f"the input gram of {problem.name} must be positive definite once damped",
        got=f"none at damping {damping:g}, also in float64",
        consequence="the layer cannot be solved",
        way_out="look for NaN or infinity in its calibration inputs, or raise the damping",
    )
