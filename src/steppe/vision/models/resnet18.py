"""ResNet-18 for small images: ImageNet's stages behind a 3 x 3 stem without pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.vision.models import MODELS

BASE = (64, 128, 256, 512)


class ProjectedBlock(nn.Module):
    """relu(x' + bn2(conv2(relu(bn1(conv1(x)))))), x' a 1 x 1 convolution where shapes differ.

    Args:
        c_in: channels of the input.
        c_out: channels of the output.
        stride: of the first convolution and the shortcut.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            conv = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, h, w] -> [n, c_out, h / stride, w / stride]."""
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return torch.relu(out + self.shortcut(x))


@MODELS.register("resnet18")
def resnet18(num_classes: int, in_shape: tuple[int, int, int], width: float = 1) -> nn.Module:
    """ResNet-18 for images of 32 to 64 pixels, 11.2 M parameters at width 1.

    For ImageNet take microsoft/resnet-18.
    """
    stages = [round(channels * width) for channels in BASE]
    if stages[0] < 1:
        raise SteppeError("width must leave at least one channel of 64", got=f"width={width}")
    layers: list[Any] = [
        nn.Conv2d(in_shape[0], stages[0], 3, padding=1, bias=False),
        nn.BatchNorm2d(stages[0]),
        nn.ReLU(),
    ]
    before = stages[0]
    for stride, channels in zip((1, 2, 2, 2), stages, strict=True):
        layers += [ProjectedBlock(before, channels, stride), ProjectedBlock(channels, channels, 1)]
        before = channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)]
    return nn.Sequential(*layers)
