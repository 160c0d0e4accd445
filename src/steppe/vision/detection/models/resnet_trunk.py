"""ImageNet's residual networks up to their fourth stage, which keeps the size of the third."""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (64, 128, 256)


class Basic(nn.Module):
    """relu(x' + bn2(conv2(relu(bn1(conv1(x)))))), x' a 1 x 1 convolution where shapes differ.

    Args:
        c_in: channels of the input.
        width: channels of the output.
        stride: of the first convolution and the shortcut.
    """

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(c_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, h, w] -> [n, width, h / stride, w / stride]."""
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        kept = x if self.downsample is None else self.downsample(x)
        return self.relu(out + kept)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """As `Basic`, of three convolutions: 1 x 1, 3 x 3 with the stride, 1 x 1.

    Args:
        c_in: channels of the input.
        width: channels within; the output has four times as many.
        stride: of the second convolution and the shortcut.
    """

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(c_in, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c_in, h, w] -> [n, 4 width, h / stride, w / stride]."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
        kept = x if self.downsample is None else self.downsample(x)
        return self.relu(out + kept)  # type: ignore[no-any-return]


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and c_in == c_out:
        return None
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))


class ResNetTrunk(nn.Module):
    """A ResNet without its last stage, whose fourth has stride 1; names as torchvision's.

    Args:
        block: `Basic` or `Bottleneck`.
        depths: blocks of each of the three stages.
        in_channels: of the images.

    Source: the trunk of NVIDIA's SSD300 (DeepLearningExamples), which HALP and AdaSAP prune.

    Example:
        >>> import torch
        >>> ResNetTrunk(Basic, (1, 1, 1), 3)(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 256, 8, 8])
    """

    def __init__(
        self, block: type[Basic | Bottleneck], depths: tuple[int, int, int], in_channels: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.channels = 64
        self.layer1 = self._stage(block, WIDTHS[0], depths[0], 1)
        self.layer2 = self._stage(block, WIDTHS[1], depths[1], 2)
        self.layer3 = self._stage(block, WIDTHS[2], depths[2], 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stage(
        self, block: type[Basic | Bottleneck], width: int, depth: int, stride: int
    ) -> nn.Sequential:
        blocks = []
        for place in range(depth):
            blocks.append(block(self.channels, width, 1 if place else stride))
            self.channels = block.expansion * width
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, channels, h / 8, w / 8]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer3(self.layer2(self.layer1(x)))  # type: ignore[no-any-return]
