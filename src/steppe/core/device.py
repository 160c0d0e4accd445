"""Where tensors live: a device that is there."""

from __future__ import annotations

import torch

from steppe.core.errors import SteppeError


def device_of(name: str) -> torch.device:
    """A device that is there.

    Args:
        name: cpu, cuda, cuda:1, ...

    Raises:
        SteppeError: it is not.

    Example:
        >>> device_of("cpu")
        device(type='cpu')
    """
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()  # the meta device has no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SteppeError(
            "the device must exist here",
            got=f"{name!r} ({str(error).splitlines()[0].split('. ')[0]})",
            way_out="--device cpu",
        ) from None
    return device
