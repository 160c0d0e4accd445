"""Accuracy when the pixels are noisy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.robustness.surface import evaluating

Channels = Sequence[float] | Tensor


def gaussian_noise(
    x: Tensor, *, sigma: float, seed: int, first: int = 0, clip: bool = True
) -> Tensor:
    """Pixels plus normal noise, a stream of its own for each image.

    ``x_i + sigma n(seed, i)``, clipped to [0, 1]. Image i gets the same noise in any batch and on
    any device (Philox, keyed by seed and i), and the same pattern at every sigma.

    Args:
        x: images in [0, 1], N x C x H x W, floating point.
        sigma: standard deviation, in units of the pixel range.
        seed: of the noise, >= 0.
        first: index of the first image within the whole set.
        clip: keep the result in [0, 1], as a camera would.

    Returns:
        The noisy images, same shape, dtype and device.

    Raises:
        SteppeError: pixels outside [0, 1], or not floating point; sigma or seed negative.

    Source: Hendrycks and Dietterich 2019, gaussian_noise (there sigma 0.08 to 0.38).

    Example:
        >>> x = torch.full((4, 1, 2, 2), 0.5)
        >>> whole = gaussian_noise(x, sigma=0.1, seed=0)
        >>> torch.equal(whole[2:], gaussian_noise(x[2:], sigma=0.1, seed=0, first=2))
        True
    """
    if not 0.0 <= sigma < float("inf") or seed < 0 or first < 0:
        raise SteppeError(
            "noise needs a finite sigma >= 0, a seed >= 0, first >= 0",
            got=f"sigma {sigma}, seed {seed}, first {first}",
        )
    _check_pixels(x)
    noise = np.empty(tuple(x.shape), dtype=np.float32)
    for i in range(len(x)):
        stream = np.random.Generator(np.random.Philox(key=[seed, first + i]))
        stream.standard_normal(out=noise[i], dtype=np.float32)
    noisy = x + sigma * torch.from_numpy(noise).to(x.device, x.dtype)
    return noisy.clamp_(0.0, 1.0) if clip else noisy


@torch.no_grad()
def accuracy_under_noise(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    sigma: float,
    seed: int = 0,
    normalise: Callable[[Tensor], Tensor] | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    batch_size: int = 256,
    clip: bool = True,
) -> float:
    """The share of noisy images that the network gets right, in eval mode.

    ``mean_i [argmax model(normalise(clip(x_i + sigma n_i))) = y_i]``: the noise goes onto the
    pixels, before normalisation, so that sigma means the same for every data set.

    Args:
        model: images -> logits, N x classes.
        x: images in [0, 1], N x C x H x W, not normalised.
        y: labels, N.
        sigma: standard deviation, in units of the pixel range.
        seed: of the noise.
        normalise: a callable on a batch; or
        mean, std: one number per channel, of pixels in [0, 1]. None of them: the model does it.
        batch_size: images at a time; does not change the pixels.
        clip: keep the noisy pixels in [0, 1].

    Returns:
        The accuracy, a fraction.

    Raises:
        SteppeError: no images, not one label each, pixels outside [0, 1], normalised twice.

    Source: Hendrycks and Dietterich 2019.

    Example:
        >>> model = nn.Flatten()                       # two pixels: the brighter one wins
        >>> x = torch.tensor([[[[0.9, 0.1]]], [[[0.2, 0.8]]]])
        >>> accuracy_under_noise(model, x, torch.tensor([0, 1]), sigma=0.01)
        1.0
    """
    if not len(x) or len(x) != len(y) or batch_size < 1:
        raise SteppeError(
            "accuracy needs images, one label each, and batch_size >= 1",
            got=f"{len(x)} images, {len(y)} labels, batch_size {batch_size}",
        )
    _check_pixels(x)
    normalised = _normaliser(normalise, mean, std)
    device = next((p.device for p in model.parameters()), x.device)
    right = 0
    with evaluating(model):
        for first in range(0, len(x), batch_size):
            batch = slice(first, first + batch_size)
            noisy = gaussian_noise(x[batch], sigma=sigma, seed=seed, first=first, clip=clip)
            guess = model(normalised(noisy.to(device))).argmax(dim=1)
            right += int((guess == y[batch].to(device)).sum())
    return right / len(x)


def _check_pixels(x: Tensor) -> None:
    if not x.is_floating_point():
        raise SteppeError(
            "images must be floating point in [0, 1]", got=x.dtype, way_out="x.float() / 255"
        )
    # written so that NaN fails too
    if x.numel() and not (float(x.min()) >= 0.0 and float(x.max()) <= 1.0):
        raise SteppeError(
            "images must lie in [0, 1] before noise is added",
            got=f"{float(x.min()):.4g} to {float(x.max()):.4g}",
            way_out="give the pixels, and mean and std beside them",
        )


def _normaliser(
    normalise: Callable[[Tensor], Tensor] | None, mean: Channels | None, std: Channels | None
) -> Callable[[Tensor], Tensor]:
    if (mean is None) != (std is None) or (normalise is not None and mean is not None):
        raise SteppeError(
            "give normalise, or both mean and std, or none of them",
            got=f"normalise {normalise}, mean {mean}, std {std}",
        )
    if mean is not None and std is not None:
        shift, scale = (torch.as_tensor(value).reshape(-1, 1, 1) for value in (mean, std))
        return lambda x: (x - shift.to(x.device, x.dtype)) / scale.to(x.device, x.dtype)
    return normalise if normalise is not None else lambda x: x
