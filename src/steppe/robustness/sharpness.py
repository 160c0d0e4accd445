"""Sharpness: the largest rise of the loss in an L2 ball around the weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.robustness.hessian import HessianTop, hessian_top
from steppe.robustness.surface import Batches, Loss, Surface, evaluating, finite

__all__ = ["HessianTop", "ball_sharpness", "hessian_top", "one_step_sharpness"]


def one_step_sharpness(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    rho: float,
    masks: Mapping[str, Tensor] | None = None,
) -> float:
    """The rise of the loss after one step of length rho up the gradient, as SAM takes it.

    ``L(w + rho g / ||g||_2) - L(w)``, one global norm, batch norm in eval mode; 0 where g = 0.
    Negative where the step overshoots.

    Args:
        model, loss_fn, batches, masks: as for `ball_sharpness`.
        rho: radius, in units of the weights.

    Returns:
        The rise, in units of the loss.

    Raises:
        SteppeError: rho not positive; loss or gradient not finite; no batch; bad masks.

    Source: Foret et al. 2021 (SAM), equation 2; AdaSAP, equation 9, to first order.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(model.weight)
        >>> loss = lambda out, y: (out**2).mean()
        >>> round(one_step_sharpness(model, loss, [(torch.ones(1, 1), torch.ones(1))], rho=0.5), 4)
        1.25
    """
    _check(rho=rho, steps=0, step_size=1.0, restarts=0)
    with evaluating(model):
        surface = Surface(model, loss_fn, batches, masks)
        base_loss, gradient = _value_and_gradient(surface)
        with surface.perturbation() as move:
            move(_scaled(gradient, rho))
            # the very numbers `ball_sharpness` compares, so that it is never below this
            return _value_and_gradient(surface)[0] - base_loss


def ball_sharpness(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    *,
    rho: float,
    steps: int = 20,
    step_size: float = 0.5,
    restarts: int = 1,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    adaptive: bool = False,
    eta: float = 0.0,
) -> float:
    """The largest rise of the loss within an L2 ball, by projected gradient ascent.

    ``max over ||eps||_2 <= rho of L(w + eps) - L(w)``; ascent
    ``eps <- P(eps + s_t rho g / ||g||_2)``, s_t falling linearly from step_size to
    step_size / steps, P the projection onto the ball, one global norm over all weights that move,
    batch norm in eval mode. Starts from the one-step point, then from random points of the sphere
    (at a stationary point the gradient says nothing). The best value met is kept, eps = 0 among
    them: a lower bound of the maximum, never below 0 nor (unless adaptive) below
    `one_step_sharpness`.

    Adaptive: the ball ||eps / T||_2 <= rho with T = |w| + eta, which does not change when the
    weights of two layers are scaled against each other and nor does the network's function;
    weights of zero stay where they are if eta = 0. The ascent is that of eps / T.

    Args:
        model: the network; its weights are restored bit for bit, gradients and modes untouched.
        loss_fn: (output, target) -> mean loss of the batch.
        batches: list of (x, y).
        rho: radius, in units of the weights.
        steps: gradient steps per start.
        step_size: the first step's length, in units of rho.
        restarts: random starts, besides the one from the gradient.
        masks: parameter name -> booleans, True = survives; pruned weights stay where they are.
        seed: of the random starts.
        adaptive: the ball of ASAM.
        eta: added to |w| there.

    Returns:
        The rise, in units of the loss.

    Raises:
        SteppeError: rho or a count out of range; loss or gradient not finite; bad masks.

    Source: AdaSAP, equation 9, which takes one step; more steps as in Madry et al. 2018. Adaptive:
    Kwon et al. 2021 (ASAM), definition 1.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(model.weight)         # the loss is 4 w^2, stationary at w = 0
        >>> loss = lambda out, y: 4 * (out**2).mean()
        >>> round(ball_sharpness(model, loss, [(torch.ones(1, 1), torch.ones(1))], rho=0.5), 4)
        1.0
    """
    _check(rho=rho, steps=steps, step_size=step_size, restarts=restarts)
    with evaluating(model):
        surface = Surface(model, loss_fn, batches, masks)
        base_loss, gradient = _value_and_gradient(surface)
        best = base_loss
        scale = surface.weights().abs_().add_(eta) if adaptive else None
        with surface.perturbation() as move:
            for start in range(1 + restarts):
                first = _random(surface, seed, start) if start else _times(gradient, scale)
                eps = _scaled(first, rho)  # over T, if adaptive
                for step in range(steps + 1):
                    move(_times(eps, scale))
                    value, slope = _value_and_gradient(surface)
                    best = max(best, value)
                    if step < steps:
                        length = step_size * rho * (1 - step / steps)
                        eps = _into_ball(eps + _scaled(_times(slope, scale), length), rho)
        return best - base_loss


def _check(*, rho: float, steps: int, step_size: float, restarts: int) -> None:
    if not 0.0 < rho < float("inf") or steps < 0 or restarts < 0 or not step_size > 0.0:
        raise SteppeError(
            "sharpness needs a finite rho > 0, step_size > 0, steps and restarts >= 0",
            got=f"rho {rho}, step_size {step_size}, steps {steps}, restarts {restarts}",
        )


def _value_and_gradient(surface: Surface) -> tuple[float, Tensor]:
    value, gradient = surface.value_and_gradient()
    way_out = "a smaller rho, or check the weights and the batches"
    finite(value, "the loss around the weights", way_out)
    finite(float(gradient.abs().amax()), "the gradient around the weights", way_out)
    return value, gradient


def _times(vector: Tensor, scale: Tensor | None) -> Tensor:
    return vector if scale is None else vector * scale


def _norm(vector: Tensor) -> Tensor:
    # in float64: the sum of squares of millions of float32 loses digits
    norm: Tensor = torch.linalg.vector_norm(vector, dtype=torch.float64)
    return norm


def _scaled(vector: Tensor, length: float) -> Tensor:
    """The vector at that length; 0 stays 0."""
    norm = float(_norm(vector))
    return vector * (length / norm) if norm > 0.0 else vector


def _into_ball(vector: Tensor, rho: float) -> Tensor:
    norm = float(_norm(vector))
    return vector * (rho / norm) if norm > rho else vector


def _random(surface: Surface, seed: int, start: int) -> Tensor:
    # drawn on the CPU: the same starts on every device
    generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
    return torch.randn(surface.size, generator=generator, dtype=surface.dtype).to(surface.device)
