"""Whether each process has images enough in a batch for the statistics of batch norms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from steppe.core.errors import SteppeError
from steppe.core.text import counted

Forward = Callable[[nn.Module, Tensor], object]


def check_statistics(
    model: nn.Module,
    forward: Forward,
    shape: tuple[int, ...],
    batch_size: int,
    processes: int,
) -> None:
    """Refuse a training in which a batch norm would see one value of a channel at a time.

    One value has no variance, and torch refuses it in the midst of the first step.

    Args:
        model: left as it is.
        forward: how it is called.
        shape: of an image.
        batch_size: of all processes together.
        processes: among which the images of a batch are shared.

    Raises:
        SteppeError: a process has one image of a batch, and a norm one place of it.
    """
    if batch_size != processes:  # with two images there are two values everywhere
        return
    names = norms_of_one_place(model, forward, shape)
    if names:
        more = f" and {counted(len(names) - 1, 'more norm')}" if len(names) > 1 else ""
        each = "" if processes == 1 else f", for {processes} processes"
        raise SteppeError(
            "in training a batch norm needs at least two values of a channel",
            got=f"1 image per process{each}, and of it one place before {names[0]}{more}",
            consequence="one value has no variance",
            way_out=f"--batch-size {2 * processes} or more (train.batch_size), "
            "at least 2 images per process",
        )


@torch.no_grad()
def norms_of_one_place(model: nn.Module, forward: Forward, shape: tuple[int, ...]) -> list[str]:
    """The batch norms that in training take statistics over the images alone, in their order.

    Args:
        model: left as it is.
        forward: how it is called.
        shape: of an image.

    Example:
        >>> net = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
        >>> norms_of_one_place(net, lambda model, x: model(x), (3, 8, 8))
        ['2']
    """
    modes = {module: module.training for module in model.modules()}
    model.train()  # where a network keeps some norms as they are, it says so here
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        and not isinstance(module, nn.SyncBatchNorm)  # which has the images of all processes
        and (module.training or module.running_mean is None)
    }
    images = 2  # with one a norm without running statistics would fail here
    found: list[str] = []

    def look(name: str, module: nn.Module, inputs: Any, named: Any) -> None:
        x = inputs[0] if inputs else named["input"]
        if x.numel() == images * x.shape[1] and name not in found:
            found.append(name)

    hooks = [
        norm.register_forward_pre_hook(partial(look, name), with_kwargs=True)
        for name, norm in norms.items()
    ]
    try:
        model.eval()
        device = next(model.parameters()).device
        forward(model, torch.zeros(images, *shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return found
