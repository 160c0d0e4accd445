"""The single shot detector: maps of several sizes, and two convolutions that read each."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.vision.detection.anchors import Anchors, anchors_in_a_cell
from steppe.vision.detection.reading import SSDReading


class SSD(nn.Module):
    """Offsets and classes of the anchors, read from every map.

    Args:
        trunk: images -> the first map, ``[n, channels[0], h, w]``.
        extras: each makes the next map from the one before.
        channels: of each map.
        num_classes: without the background.
        in_shape: channels, height, width of an image.
        scales: of the anchors, see `Anchors`.
        ratios: of the anchors of each map.

    Raises:
        SteppeError: the images are too small to have all maps.

    Source: Liu et al. 2016, https://arxiv.org/abs/1512.02325.
    """

    def __init__(
        self,
        trunk: nn.Module,
        extras: Sequence[nn.Module],
        channels: Sequence[int],
        num_classes: int,
        in_shape: tuple[int, int, int],
        scales: Sequence[float],
        ratios: Sequence[Sequence[float]],
    ) -> None:
        super().__init__()
        self.trunk, self.extras = trunk, nn.ModuleList(extras)
        self.outputs = 1 + num_classes
        each = anchors_in_a_cell(ratios)
        pairs = list(zip(channels, each, strict=True))
        self.offsets = nn.ModuleList([nn.Conv2d(c, 4 * n, 3, padding=1) for c, n in pairs])
        self.classes = nn.ModuleList(
            [nn.Conv2d(c, self.outputs * n, 3, padding=1) for c, n in pairs]
        )
        for layer in (*self.offsets, *self.classes):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        maps = map_sizes(trunk, extras, in_shape)
        self.reading = SSDReading(Anchors(maps, scales, ratios))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, c, h, w]`` -> ``[n, anchors, 4 + 1 + classes]``: offsets, then logits."""
        maps = [self.trunk(x)]
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        n = x.shape[0]
        offsets, logits = [], []
        for own, boxes, classes in zip(maps, self.offsets, self.classes, strict=True):
            offsets.append(boxes(own).permute(0, 2, 3, 1).reshape(n, -1, 4))
            logits.append(classes(own).permute(0, 2, 3, 1).reshape(n, -1, self.outputs))
        return torch.cat([torch.cat(offsets, 1), torch.cat(logits, 1)], 2)


def map_sizes(
    trunk: nn.Module, extras: Sequence[nn.Module], in_shape: tuple[int, int, int]
) -> tuple[tuple[int, int], ...]:
    """Height and width of each map; nothing is computed.

    Raises:
        SteppeError: the images are too small.
    """
    sizes: list[tuple[int, int]] = []
    with torch.no_grad():
        x = torch.zeros(1, *in_shape, device="meta")
        for module in (trunk, *extras):
            try:
                x = copy.deepcopy(module).to("meta").eval()(x)
            except RuntimeError as error:
                raise SteppeError(
                    f"a detector of {1 + len(extras)} maps needs larger images",
                    got=f"{in_shape[2]} x {in_shape[1]} pixels ({str(error).splitlines()[0]})",
                    way_out="larger ones: --set data.size=..., or --input-size of steppe latency",
                ) from None
            sizes.append((x.shape[2], x.shape[3]))
    return tuple(sizes)


def normed(
    c_in: int, c_out: int, kernel: int, stride: int = 1, padding: int = 0
) -> list[nn.Module]:
    """A convolution without bias, batch norm, ReLU."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(c_out), nn.ReLU()]
