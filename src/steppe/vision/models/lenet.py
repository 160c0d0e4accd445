"""Fully connected networks; LeNet-300-100 among them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.vision.models import MODELS


class MLP(nn.Module):
    """Linear layers with ReLU between them: fc1, fc2, ...

    Args:
        sizes: features from input to output, e.g. (784, 300, 100, 10).

    Example:
        >>> [name for name, _ in MLP((784, 300, 100, 10)).named_children()]
        ['fc1', 'fc2', 'fc3']
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
            self.add_module(f"fc{i}", nn.Linear(fan_in, fan_out))

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, num_classes]."""
        x = x.flatten(1)
        *hidden, last = self.children()
        for layer in hidden:
            x = layer(x).relu()
        out: Tensor = last(x)
        return out


@MODELS.register("mlp")
def mlp(num_classes: int, in_shape: tuple[int, int, int], hidden: Sequence[int] = (128,)) -> MLP:
    """A small fully connected network.

    Args:
        num_classes: number of classes.
        in_shape: channels, height, width.
        hidden: features of each hidden layer.

    Returns:
        The network with torch's default initialisation.

    Example:
        >>> sum(p.numel() for p in mlp(10, (1, 8, 8), hidden=(32,)).parameters())
        2410
    """
    if any(width < 1 for width in hidden):
        raise SteppeError("hidden widths must be positive", got=list(hidden))
    return MLP((prod(in_shape), *hidden, num_classes))


@MODELS.register("lenet-300-100")
def lenet_300_100(num_classes: int, in_shape: tuple[int, int, int]) -> MLP:
    """LeNet-300-100 (LeCun et al. 1998, "Gradient-based learning applied to document recognition").

    Args:
        num_classes: number of classes.
        in_shape: channels, height, width; 1, 28, 28 for MNIST.

    Returns:
        The network; 266,610 parameters on MNIST.

    Example:
        >>> sum(p.numel() for p in lenet_300_100(10, (1, 28, 28)).parameters())
        266610
    """
    return MLP((prod(in_shape), 300, 100, num_classes))
