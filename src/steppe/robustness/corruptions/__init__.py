"""The common corruptions of ImageNet-C and CIFAR-10-C, on tensors, one file each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.registry import Registry
from steppe.robustness.draws import Draws

CORRUPTIONS: Registry[Corruption] = Registry("corruption", "steppe.robustness.corruptions")
SEVERITIES = (1, 2, 3, 4, 5)
_SMALL = 64  # up to this side the constants of 32 x 32 images are taken
_CHUNK = 1 << 20  # values that are computed at once, so that they stay in the cores' caches

Function = Callable[[Tensor, Any, Draws], Tensor]


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """One corruption, in five severities.

    Args:
        name: the published name.
        function: (images [n, 3, h, w], one severity's constants, draws) -> images; may leave
            [0, 1], which is clipped.
        small: the constants of CIFAR-10-C, for images of about 32 x 32.
        large: those of ImageNet-C, for about 224 x 224.
        extra: one of the four that ImageNet-C keeps apart for validation.
    """

    name: str
    function: Function
    small: tuple[Any, ...]
    large: tuple[Any, ...]
    extra: bool = False


def corruption(
    name: str, *, small: tuple[Any, ...], large: tuple[Any, ...], extra: bool = False
) -> Callable[[Function], Function]:
    """Register the decorated function as a corruption; see `Corruption` for the arguments."""
    assert len(small) == len(large) == len(SEVERITIES)

    def add(function: Function) -> Function:
        registered = Corruption(name=name, function=function, small=small, large=large, extra=extra)
        # the registry compares what is registered twice by these names
        object.__setattr__(registered, "__module__", function.__module__)
        object.__setattr__(registered, "__qualname__", function.__qualname__)
        CORRUPTIONS.register(name)(registered)
        return function

    return add


def benchmark(*, extra: bool) -> frozenset[str]:
    """The names of ImageNet-C's 15 kinds, or of its 4 extra ones; none that others registered.

    Example:
        >>> len(benchmark(extra=False)), sorted(benchmark(extra=True))
        (15, ['gaussian_blur', 'saturate', 'spatter', 'speckle_noise'])
    """
    own = (name for name in CORRUPTIONS if CORRUPTIONS[name].__module__.startswith(f"{__name__}."))
    return frozenset(name for name in own if CORRUPTIONS[name].extra is extra)


@torch.no_grad()
def corrupt(
    images: Tensor,
    name: str,
    severity: int,
    *,
    seed: int = 0,
    first: int = 0,
    constants: str | None = None,
) -> Tensor:
    """Corrupt images as ImageNet-C and CIFAR-10-C do.

    What is random is drawn for each image apart, from (seed, name, severity, index), so that an
    image is corrupted in the same way in any batch and on any device. The published files are
    cut to eight bits; this is not.

    Args:
        images: in [0, 1], shape [n, 3, h, w], floating point.
        name: e.g. "fog"; see `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of all draws, >= 0.
        first: index of the first image in the whole set.
        constants: "small" for those of 32 x 32 images, "large" for those of 224 x 224; by the
            images' size if left out.

    Returns:
        The corrupted images, in [0, 1]; same shape, dtype and device.

    Raises:
        SteppeError: an unknown name or severity, images of another shape or range.

    Source: Hendrycks & Dietterich 2019, and the constants of their released code.

    Example:
        >>> x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> whole = corrupt(x, "gaussian_noise", 3)
        >>> torch.equal(whole[2:], corrupt(x[2:], "gaussian_noise", 3, first=2))
        True
    """
    chosen = CORRUPTIONS[name]
    if severity not in SEVERITIES or seed < 0 or first < 0:
        raise SteppeError(
            "a severity is 1, 2, 3, 4 or 5, and a seed and an index are 0 or more",
            got=f"severity {severity}, seed {seed}, first {first}",
        )
    check_images(images)
    if constants is None:
        constants = "small" if max(images.shape[-2:]) <= _SMALL else "large"
    if constants not in ("small", "large"):
        raise SteppeError("constants are small or large", got=repr(constants))
    c = (chosen.small if constants == "small" else chosen.large)[severity - 1]
    corrupted = torch.empty_like(images)
    for chunk in _chunks(images):
        draws = Draws(
            seed,
            f"{name}/{severity}",
            range(first + chunk.start, first + chunk.stop),
            device=images.device,
        )
        result = chosen.function(images[chunk].float().contiguous(), c, draws)
        torch.clamp(result, 0.0, 1.0, out=result)
        corrupted[chunk] = result
    return corrupted


def check_images(images: Tensor, *, channels: int | None = 3) -> None:
    """Images are [n, c, h, w], floating point, in [0, 1].

    Args:
        images: to be looked at.
        channels: c; any number if None.

    Raises:
        SteppeError: they are not; it says what they are.
    """
    got = f"shape {list(images.shape)}, {images.dtype}"
    shape = f"[n, {channels or 'c'}, h, w]"
    rule = f"images are floating point in [0, 1], shape {shape}, not normalised"
    if (
        images.ndim != 4
        or channels not in (None, images.shape[1])
        or not images.is_floating_point()
    ):
        raise SteppeError(rule, got=got, way_out="x.float() / 255 for 8-bit images")
    if images.numel():
        low, high = (float(v) for v in torch.aminmax(images))
        if not (low >= 0.0 and high <= 1.0):  # NaN fails too
            raise SteppeError(
                rule,
                got=f"values from {low:.4g} to {high:.4g}",
                consequence="constants made for [0, 1] would mean something else",
                way_out="undo the normalisation first, and put it inside the model",
            )


def _chunks(images: Tensor) -> Iterator[slice]:
    size = max(1, _CHUNK // max(1, images[0].numel())) if len(images) else 1
    for start in range(0, len(images), size):
        yield slice(start, min(start + size, len(images)))
