"""Average sharpness: the mean rise of the loss under random noise on the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.robustness.surface import Batches, Loss, Surface, evaluating, finite


@dataclass(frozen=True)
class Estimate:
    """A mean over random draws, and its standard error.

    Args:
        mean: of the draws.
        error: standard error of the mean.
        draws: how many.
    """

    mean: float
    error: float
    draws: int

    @classmethod
    def of(cls, values: list[float]) -> Estimate:
        """From the values of the draws; the error of a single draw is infinite."""
        count = len(values)
        error = stdev(values) / sqrt(count) if count > 1 else float("inf")
        return cls(fmean(values), error, count)


def average_sharpness(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    rho: float,
    draws: int = 20,
    masks: Mapping[str, Tensor] | None = None,
    adaptive: bool = False,
    seed: int = 0,
) -> Estimate:
    """The mean rise of the loss under normal noise whose expected squared length is rho^2.

    ``E L(w + eps) - L(w), eps ~ N(0, rho^2 / n I)`` over the n weights that move; adaptive:
    eps_i ~ N(0, rho^2 w_i^2 / n). Batch norm in eval mode. Each draw is used with both signs, which
    cancels the slope; on a quadratic the mean is rho^2 tr(H) / 2 n.

    Args:
        model: the network; left bit for bit as it was.
        loss_fn: (output, target) -> mean loss of the batch.
        batches: list of (x, y).
        rho: length of the noise, in units of the weights (adaptive: relative to them).
        draws: pairs of noise vectors; each costs two passes over the batches.
        masks: parameter name -> booleans, True = survives; pruned weights stay where they are.
        adaptive: noise in proportion to each weight.
        seed: of the noise.

    Returns:
        The mean, its standard error, the number of pairs.

    Raises:
        SteppeError: rho or draws out of range; a loss that is not finite; no batch; bad masks.

    Source: Andriushchenko et al. 2023, equation 2, with c = 1 or |w|.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> loss = lambda out, y: (out**2).mean()      # the loss is w^2
        >>> sharpness = average_sharpness(
        ...     model, loss, [(torch.ones(1, 1), torch.ones(1))], rho=0.1, draws=400)
        >>> abs(sharpness.mean - 0.01) < 4 * sharpness.error
        True
    """
    if not 0.0 < rho < float("inf") or draws < 1:
        raise SteppeError(
            "average sharpness needs a finite rho > 0 and one draw at least",
            got=f"rho {rho}, draws {draws}",
        )
    way_out = "a smaller rho, or check the weights and the batches"
    with evaluating(model):
        surface = Surface(model, loss_fn, batches, masks)
        base_loss = finite(surface.value(), "the loss", way_out)
        scale = rho / sqrt(surface.size)
        deviation = surface.weights().abs_().mul_(scale) if adaptive else scale
        rises = []
        with surface.perturbation() as move:
            for draw in range(draws):
                generator = torch.Generator().manual_seed(seed * 1_000_003 + draw)
                noise = torch.randn(surface.size, generator=generator, dtype=surface.dtype)
                eps = noise.to(surface.device) * deviation
                pair = []
                for sign in (1.0, -1.0):
                    move(eps * sign)
                    pair.append(finite(surface.value(), "the loss around the weights", way_out))
                rises.append(fmean(pair) - base_loss)
    return Estimate.of(rises)
