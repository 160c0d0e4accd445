"""The residual networks for CIFAR (He et al. 2016, section 4.2, https://arxiv.org/abs/1512.03385)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steppe.core.errors import SteppeError, unknown
from steppe.vision.models import MODELS
from steppe.vision.models.resnet18 import ProjectedBlock

BASE = (16, 32, 64)


class BasicBlock(nn.Module):
    """relu(x' + bn2(conv2(relu(bn1(conv1(x)))))), x' the parameter-free shortcut (option A).

    Option A: take every ``stride``-th pixel, put the missing channels around x as zeros.

    Args:
        c_in: channels of the input.
        c_out: channels of the output, at least ``c_in``.
        stride: of the first convolution and the shortcut.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.stride, self.front = stride, (c_out - c_in) // 2
        self.back = c_out - c_in - self.front

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, h, w] -> [n, c_out, h / stride, w / stride]."""
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.front or self.back:
            x = F.pad(x, (0, 0, 0, 0, self.front, self.back))
        return torch.relu(out + x)


Block = Callable[[int, int, int], nn.Module]
BLOCKS: dict[str, Block] = {"A": BasicBlock, "B": ProjectedBlock}
"""The block of each shortcut."""


class ResNet(nn.Module):
    """Three stages of ``blocks`` basic blocks with 16, 32, 64 channels times ``width``.

    Args:
        blocks: blocks per stage; depth = 6 * blocks + 2.
        num_classes: number of classes.
        in_channels: channels of the images.
        width: factor on the channels, e.g. 2 (SAFE) or 0.5.
        stem_stride: of the first convolution; 2 makes every layer four times cheaper.
        shortcut: where shapes differ: ``A``, padded with zeros; ``B``, a 1 x 1 convolution and its
            batch norm, as SAFE's authors have it.

    Example:
        >>> ResNet(3, 10, 3, 1)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        blocks: int,
        num_classes: int,
        in_channels: int,
        width: float,
        stem_stride: int = 1,
        shortcut: str = "A",
    ) -> None:
        super().__init__()
        a, b, c = (round(channels * width) for channels in BASE)
        block = BLOCKS[shortcut]
        self.conv1 = nn.Conv2d(in_channels, a, 3, stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(a)
        self.layer1 = _stage(block, a, a, blocks, 1)
        self.layer2 = _stage(block, a, b, blocks, 2)
        self.layer3 = _stage(block, b, c, blocks, 2)
        self.linear = nn.Linear(c, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[n, in_channels, h, w] -> [n, num_classes]."""
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer3(self.layer2(self.layer1(x)))
        out: Tensor = self.linear(x.mean((2, 3)))
        return out


def _stage(block: Block, c_in: int, c_out: int, blocks: int, stride: int) -> nn.Sequential:
    first = block(c_in, c_out, stride)
    return nn.Sequential(first, *(block(c_out, c_out, 1) for _ in range(blocks - 1)))


def _resnet(
    depth: int,
    num_classes: int,
    in_shape: tuple[int, int, int],
    width: float,
    stem_stride: int,
    shortcut: str,
) -> ResNet:
    if round(BASE[0] * width) < 1:
        raise SteppeError("width must leave at least one channel of 16", got=f"width={width}")
    if stem_stride not in (1, 2, 4):
        raise SteppeError("stem_stride is 1, 2 or 4", got=f"stem_stride={stem_stride}")
    if shortcut not in BLOCKS:
        raise unknown("shortcut", shortcut, BLOCKS)
    return ResNet((depth - 2) // 6, num_classes, in_shape[0], width, stem_stride, shortcut)


@MODELS.register("resnet8")
def resnet8(
    num_classes: int,
    in_shape: tuple[int, int, int],
    width: float = 1,
    stem_stride: int = 1,
    shortcut: str = "A",
) -> ResNet:
    """ResNet-8, 0.08 M parameters at width 1: for small images, or long runs on a processor."""
    return _resnet(8, num_classes, in_shape, width, stem_stride, shortcut)


@MODELS.register("resnet14")
def resnet14(
    num_classes: int,
    in_shape: tuple[int, int, int],
    width: float = 1,
    stem_stride: int = 1,
    shortcut: str = "A",
) -> ResNet:
    """ResNet-14, 0.17 M parameters at width 1."""
    return _resnet(14, num_classes, in_shape, width, stem_stride, shortcut)


@MODELS.register("resnet20")
def resnet20(
    num_classes: int,
    in_shape: tuple[int, int, int],
    width: float = 1,
    stem_stride: int = 1,
    shortcut: str = "A",
) -> ResNet:
    """ResNet-20, 0.27 M parameters at width 1; SAFE trains it with ``width=2, shortcut="B"``."""
    return _resnet(20, num_classes, in_shape, width, stem_stride, shortcut)


@MODELS.register("resnet32")
def resnet32(
    num_classes: int,
    in_shape: tuple[int, int, int],
    width: float = 1,
    stem_stride: int = 1,
    shortcut: str = "A",
) -> ResNet:
    """ResNet-32, 0.46 M parameters at width 1."""
    return _resnet(32, num_classes, in_shape, width, stem_stride, shortcut)


@MODELS.register("resnet44")
def resnet44(
    num_classes: int,
    in_shape: tuple[int, int, int],
    width: float = 1,
    stem_stride: int = 1,
    shortcut: str = "A",
) -> ResNet:
    """ResNet-44, 0.66 M parameters at width 1."""
    return _resnet(44, num_classes, in_shape, width, stem_stride, shortcut)


@MODELS.register("resnet56")
def resnet56(
    num_classes: int,
    in_shape: tuple[int, int, int],
    width: float = 1,
    stem_stride: int = 1,
    shortcut: str = "A",
) -> ResNet:
    """ResNet-56, 0.85 M parameters at width 1."""
    return _resnet(56, num_classes, in_shape, width, stem_stride, shortcut)
