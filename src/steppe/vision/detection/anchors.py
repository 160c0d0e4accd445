"""Anchors (default boxes): the boxes that a detector of one pass starts from."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.errors import SteppeError


@dataclass(frozen=True)
class Anchors:
    """The default boxes of an SSD, as numbers.

    A cell of map k has a box of scale s_k for each aspect ratio a (1, and a and 1/a of
    ``ratios``), ``s_k sqrt(a)`` wide and ``s_k / sqrt(a)`` high, and one square of scale
    ``sqrt(s_k s_(k+1))``. Scales are shares of the image's side.

    Args:
        maps: height and width of each map.
        scales: one for each map, and one more.
        ratios: of each map, the ratios above 1.

    Raises:
        SteppeError: there is not one scale more than maps, or one is not positive.

    Source: Liu et al. 2016, section 2.2. No box is wider or higher than the image, as in NVIDIA's
    code (DeepLearningExamples, ``dboxes.clamp_(min=0, max=1)`` of centres and sides); the paper's
    code leaves them larger. One near an edge reaches beyond the image, as in both (the latter's
    ``clip = False``).

    Example:
        >>> anchors = Anchors(((2, 2), (1, 1)), (0.2, 0.5, 1.0), ((2.0,), (2.0, 3.0)))
        >>> anchors.each, len(anchors), anchors.boxes()[0].tolist()[:2]
        ([4, 6], 22, [0.25, 0.25])
    """

    maps: Sequence[tuple[int, int]]
    scales: Sequence[float]
    ratios: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        own = {
            "maps": tuple((int(height), int(width)) for height, width in self.maps),
            "scales": tuple(map(float, self.scales)),
            "ratios": tuple(tuple(map(float, of_map)) for of_map in self.ratios),
        }
        for name, value in own.items():  # of lists too, which have no hash
            object.__setattr__(self, name, value)
        if not (len(self.maps) + 1 == len(self.scales) == len(self.ratios) + 1):
            raise SteppeError(
                "anchors have a scale for each map and one more",
                got=f"{len(self.maps)} maps, {len(self.scales)} scales",
                way_out=f"{len(self.maps) + 1} scales",
            )
        if min(self.scales) <= 0 or any(ratio <= 1 for own in self.ratios for ratio in own):
            raise SteppeError(
                "scales of anchors are above 0 and ratios above 1",
                got=f"scales {list(self.scales)}, ratios {[list(own) for own in self.ratios]}",
            )

    @property
    def each(self) -> list[int]:
        """Anchors in a cell of each map."""
        return anchors_in_a_cell(self.ratios)

    def __len__(self) -> int:
        return sum(h * w * n for (h, w), n in zip(self.maps, self.each, strict=True))

    def boxes(self, device: torch.device | str = "cpu") -> Tensor:
        """``[n, 4]``: centre x, centre y, width, height, shares of the image, each at most 1."""
        return _boxes(self).to(device, copy=True)  # what is kept is nobody's to change


def anchors_in_a_cell(ratios: Sequence[Sequence[float]]) -> list[int]:
    """Two squares, and two boxes for each ratio.

    Example:
        >>> anchors_in_a_cell([[2.0], [2.0, 3.0]])
        [4, 6]
    """
    return [2 + 2 * len(own) for own in ratios]


@functools.cache
def _boxes(anchors: Anchors) -> Tensor:
    """Map by map, row by row, cell by cell, shape by shape: the order of an SSD's outputs."""
    parts = []
    for k, ((height, width), own) in enumerate(zip(anchors.maps, anchors.ratios, strict=True)):
        scale, after = anchors.scales[k], anchors.scales[k + 1]
        shapes = [(scale, scale), (math.sqrt(scale * after),) * 2]
        for ratio in own:
            root = math.sqrt(ratio)
            shapes += [(scale * root, scale / root), (scale / root, scale * root)]
        y = (torch.arange(height, dtype=torch.float64) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float64) + 0.5) / width
        cells = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)
        sizes = torch.tensor(shapes, dtype=torch.float64)
        parts.append(
            torch.cat(
                [
                    cells[:, :, None].expand(height, width, len(shapes), 2),
                    sizes.expand(height, width, len(shapes), 2),
                ],
                -1,
            ).reshape(-1, 4)
        )
    return torch.cat(parts).clamp(0, 1).float()
