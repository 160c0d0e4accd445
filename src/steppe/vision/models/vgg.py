"""VGG with batch norm for CIFAR (Simonyan & Zisserman 2015, https://arxiv.org/abs/1409.1556).

As the SAFE repository has it: convolutions with bias, then two 512-unit linear layers without
batch norm, then the classifier.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.vision.models import MODELS

CONVS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Depth -> 3x3 convolutions in each of the five stages."""
CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Five stages of (conv, batch norm, ReLU), each ended by a 2x2 pooling; three linear layers.

    Args:
        convs: convolutions per stage.
        num_classes: number of classes.
        in_channels: channels of the images.

    Example:
        >>> import torch
        >>> VGG((1, 1, 1, 1, 1), 10, 3)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, convs: Sequence[int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        last = in_channels
        for count, channels in zip(convs, CHANNELS, strict=True):
            for _ in range(count):
                conv = nn.Conv2d(last, channels, 3, padding=1)
                layers += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
                last = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[n, in_channels, h, w] with h, w >= 32 -> [n, num_classes]."""
        # At 32 x 32 one pixel is left and the mean changes nothing; larger images work as well.
        out: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return out


def _vgg(depth: int, num_classes: int, in_shape: tuple[int, int, int]) -> VGG:
    if min(in_shape[1:]) < 32:
        raise SteppeError(
            f"vgg{depth}-bn needs images of at least 32 x 32",
            got=in_shape,
            consequence="five poolings would leave nothing",
            way_out="resize the images with size=32, or use resnet20 or small-cnn",
        )
    return VGG(CONVS[depth], num_classes, in_shape[0])


@MODELS.register("vgg11-bn")
def vgg11_bn(num_classes: int, in_shape: tuple[int, int, int]) -> VGG:
    """VGG-11 with batch norm, 9.8 M parameters."""
    return _vgg(11, num_classes, in_shape)


@MODELS.register("vgg13-bn")
def vgg13_bn(num_classes: int, in_shape: tuple[int, int, int]) -> VGG:
    """VGG-13 with batch norm, 9.9 M parameters."""
    return _vgg(13, num_classes, in_shape)


@MODELS.register("vgg16-bn")
def vgg16_bn(num_classes: int, in_shape: tuple[int, int, int]) -> VGG:
    """VGG-16 with batch norm, 15.3 M parameters."""
    return _vgg(16, num_classes, in_shape)


@MODELS.register("vgg19-bn")
def vgg19_bn(num_classes: int, in_shape: tuple[int, int, int]) -> VGG:
    """VGG-19 with batch norm, 20.6 M parameters."""
    return _vgg(19, num_classes, in_shape)
