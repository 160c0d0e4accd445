"""A small convolutional network, trained in seconds on two cores."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from steppe.core.errors import SteppeError
from steppe.vision.models import MODELS


class SmallCNN(nn.Module):
    """Three 3x3 convolutions with batch norm, two poolings, a mean over space, one linear layer.

    Args:
        channels: channels of the three convolutions.
        num_classes: number of classes.
        in_channels: channels of the images.

    Example:
        >>> import torch
        >>> SmallCNN((16, 32, 64), 10, 1)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, channels: tuple[int, int, int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        a, b, c = channels
        self.conv1 = nn.Conv2d(in_channels, a, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(a)
        self.conv2 = nn.Conv2d(a, b, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(b)
        self.conv3 = nn.Conv2d(b, c, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(c)
        self.linear = nn.Linear(c, num_classes)
        for conv in (self.conv1, self.conv2, self.conv3):
            nn.init.kaiming_normal_(conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] with h, w >= 4 -> [n, num_classes]."""
        x = self.bn1(self.conv1(x)).relu()
        x = F.max_pool2d(self.bn2(self.conv2(x)).relu(), 2)
        x = F.max_pool2d(self.bn3(self.conv3(x)).relu(), 2)
        out: Tensor = self.linear(x.mean((2, 3)))
        return out


@MODELS.register("small-cnn")
def small_cnn(
    num_classes: int,
    in_shape: tuple[int, int, int],
    channels: tuple[int, int, int] = (16, 32, 64),
) -> SmallCNN:
    """The network of the digits demonstration.

    Args:
        num_classes: number of classes.
        in_shape: channels, height, width; at least 4 x 4.
        channels: channels of the three convolutions.

    Returns:
        The network, He-initialised; 24,058 parameters for 10 classes of grey images.

    Example:
        >>> sum(p.numel() for p in small_cnn(10, (1, 8, 8)).parameters())
        24058
    """
    if min(in_shape[1:]) < 4:
        raise SteppeError(
            "small-cnn needs images of at least 4 x 4",
            got=in_shape,
            way_out="resize, or use mlp",
        )
    if len(channels) != 3 or min(channels) < 1:
        raise SteppeError("small-cnn needs three positive channel counts", got=channels)
    return SmallCNN(channels, num_classes, in_shape[0])
