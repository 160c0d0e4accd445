"""Where the weights of a network start."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from steppe.core.errors import unknown

Init = Literal["fan_in", "fan_out"]
INITS = get_args(Init)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def initialise(model: nn.Module, init: Init) -> None:
    """He's normal start of all convolutions and linear layers but the last layer, in place.

    w ~ N(0, 2 / fan): fan_in = inputs * kernel keeps the size of what goes forward, fan_out =
    outputs * kernel that of the gradient. The last layer, biases and norms start as they do.

    Args:
        model: just built; drawn from torch's generator.
        init: ``fan_in``, or ``fan_out`` as torchvision's ResNets, STR and PILoT have it.

    Raises:
        SteppeError: there is no such start.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Conv2d(1, 64, 3), nn.Flatten(), nn.Linear(64, 10))
        >>> initialise(model, "fan_out")
        >>> round(float(model[0].weight.std()), 2)  # (2 / (64 * 9)) ** 0.5
        0.06

    Source: He et al. 2015, Delving deep into rectifiers, eqs. 10 and 14.
    """
    if init not in INITS:
        raise unknown("init", init, INITS)
    layers = [m for m in model.modules() if isinstance(m, (*_CONVOLUTIONS, nn.Linear))]
    for layer in layers[:-1]:
        nn.init.kaiming_normal_(layer.weight, mode=init, nonlinearity="relu")
