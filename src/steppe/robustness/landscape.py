"""The loss along one or two directions through the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.robustness.surface import Batches, Loss, Surface, evaluating, finite

Direction = dict[str, Tensor]


def directions(
    model: nn.Module,
    count: int,
    *,
    masks: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> list[Direction]:
    """Random directions in which every filter moves by its own length.

    ``d_f <- d_f ||w_f|| / ||d_f||`` for each filter f (output unit) of each weight with two
    dimensions or more; biases and norms do not move. To draw two networks on common directions,
    make them from one and use them for both.

    Args:
        model: whose filters' lengths are taken.
        count: how many.
        masks: parameter name -> booleans; pruned weights do not move.
        seed: of the draws; the same for any device.

    Returns:
        For each, parameter name -> tensor of its shape.

    Source: Li et al. 2018, section 4.

    Example:
        >>> net = nn.Linear(3, 2)
        >>> (direction,) = directions(net, 1)
        >>> torch.allclose(direction["weight"].norm(dim=1), net.weight.norm(dim=1))
        True
        >>> float(direction["bias"].abs().sum())
        0.0
    """
    drawn = []
    for number in range(count):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        direction = {}
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator).to(p.device, p.dtype)
            if p.ndim < 2:
                direction[name] = torch.zeros_like(p)
                continue
            if masks is not None and name in masks:
                noise *= masks[name]
            lengths = [t.detach().flatten(1).norm(dim=1) for t in (p, noise)]
            scale = lengths[0] / lengths[1].clamp_min(1e-30)
            direction[name] = noise * scale.view(-1, *[1] * (p.ndim - 1))
        drawn.append(direction)
    return drawn


def landscape(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    along: Sequence[Direction],
    *,
    radius: float = 1.0,
    points: int = 21,
) -> tuple[Tensor, Tensor]:
    """The loss on a grid through the weights.

    ``L(w + a d_1 (+ b d_2))`` for a (and b) in ``points`` equal steps from -radius to radius, batch
    norm in eval mode.

    Args:
        model: the network; left bit for bit as it was.
        loss_fn: (output, target) -> mean loss of the batch.
        batches: list of (x, y).
        along: one or two directions, see `directions`.
        radius: how far to go, in units of the directions: 1 is as far as the weights are long.
        points: on each axis, odd so that the middle is the network itself.

    Returns:
        The coordinates ``[points]`` and the losses ``[points]`` or ``[points, points]``, float64;
        the first index belongs to the first direction.

    Raises:
        SteppeError: a direction that does not fit, a grid without a middle, a loss at the weights
            that is not finite. Far away it may be infinite: that is what is drawn there.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(net.weight)
        >>> loss = lambda out, y: (out**2).mean()
        >>> batches = [(torch.ones(1, 1), torch.ones(1))]
        >>> landscape(net, loss, batches, [{"weight": torch.ones(1, 1)}], points=3)[1].tolist()
        [0.0, 1.0, 4.0]
    """
    if len(along) not in (1, 2) or points < 3 or points % 2 == 0 or not radius > 0.0:
        raise SteppeError(
            "a landscape has one or two directions, an odd number of points, a radius above 0",
            got=f"{len(along)} directions, {points} points, radius {radius}",
        )
    coordinates = torch.linspace(-radius, radius, points, dtype=torch.float64)
    with evaluating(model):
        surface = Surface(model, loss_fn, batches)
        finite(surface.value(), "the loss at the weights", "check the weights and the batches")
        vectors = [_vector(model, surface, direction) for direction in along]
        losses = torch.empty([points] * len(along), dtype=torch.float64)
        with surface.perturbation() as move:
            for index in range(losses.numel()):
                at = torch.unravel_index(torch.tensor(index), losses.shape)
                steps = [float(coordinates[i]) for i in at]
                move(sum((v * s for v, s in zip(vectors, steps, strict=True)), vectors[0] * 0))
                losses[tuple(int(i) for i in at)] = surface.value()
    return coordinates, losses


def _vector(model: nn.Module, surface: Surface, direction: Direction) -> Tensor:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    wrong = [n for n, p in named.items() if n not in direction or direction[n].shape != p.shape]
    if wrong:
        raise SteppeError(
            "a direction has a tensor for each parameter, of its shape",
            got=f"none, or another shape, for {wrong[0]}",
            way_out="directions() of a network of the same architecture",
        )
    return surface.flat([direction[name] for name in named])
