"""The trace of the Hessian: curvature summed over all directions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.robustness.average_sharpness import Estimate
from steppe.robustness.surface import Batches, Loss, Surface, evaluating, finite


def hessian_trace(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    draws: int = 30,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Estimate:
    """The trace of the Hessian of the mean loss, by Hutchinson's estimator.

    ``tr H = E v' H v``, v of random signs; its variance is 2 sum over i != j of H_ij^2. Batch norm
    in eval mode.

    Args:
        model: the network; left as it was.
        loss_fn: (output, target) -> mean loss of the batch, twice differentiable.
        batches: list of (x, y).
        draws: vectors; each costs about four forward passes over the batches.
        masks: parameter name -> booleans, True = survives; the trace is that of the survivors.
        seed: of the vectors.

    Returns:
        The mean, its standard error, the number of vectors.

    Raises:
        SteppeError: no draw; NaN; no batch; bad masks.

    Source: Hutchinson 1990.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[2.0, 0.0], [0.0, 1.0]])   # mean (w.x)^2 / 2: H = diag(4, 1) / 2
        >>> loss = lambda out, y: (out**2).mean() / 2
        >>> round(hessian_trace(model, loss, [(x, x)]).mean, 4)
        2.5
    """
    if draws < 1:
        raise SteppeError("the trace needs one draw at least", got=f"draws {draws}")
    with evaluating(model):
        surface = Surface(model, loss_fn, batches, masks)
        values = []
        for draw in range(draws):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + draw)
            signs = torch.randint(0, 2, (surface.size,), generator=generator)
            vector = (2 * signs - 1).to(surface.device, surface.dtype)
            value = float((vector * surface.hessian_product(vector)).sum(dtype=torch.float64))
            values.append(finite(value, "v' H v", "check the weights and the batches for NaN"))
    return Estimate.of(values)
