"""Which anchor stands for which object."""

from __future__ import annotations

import torch
from torch import Tensor

from steppe.vision.detection.boxes import cornered, encode, iou

BACKGROUND = 0


def match(found: Tensor, anchors: Tensor, least: float = 0.5) -> tuple[Tensor, Tensor]:
    """The class and the offsets that each anchor shall give for an image.

    Every anchor takes the object that it overlaps most, if by at least ``least``; then every object
    takes the anchor that overlaps it most, so that none is left out. Where objects share their
    best anchor, the last of them has it.

    Args:
        found: ``[objects, 6]``, see `steppe.vision.detection.targets`.
        anchors: ``[n, 4]``, centre x, centre y, width, height.
        least: intersection over union.

    Returns:
        Classes ``[n]``, 0 for the background and else label + 1; offsets ``[n, 4]``, 0 for the
        background.

    Source: Liu et al. 2016, section 2.2.

    Example:
        >>> anchors = torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.2, 0.2, 0.2, 0.2]])
        >>> match(torch.tensor([[0.1, 0.1, 0.3, 0.3, 4, 0]]), anchors)[0]
        tensor([0, 5])
    """
    classes = torch.full((len(anchors),), BACKGROUND, dtype=torch.long, device=anchors.device)
    offsets = torch.zeros_like(anchors)
    if not len(found):
        return classes, offsets
    overlap = iou(found[:, :4], cornered(anchors))
    best, whose = overlap.max(0)
    favourites = overlap.argmax(1)
    for row, favourite in enumerate(favourites.tolist()):  # in order, so that the last one has it
        best[favourite], whose[favourite] = 1.0, row
    taken = best >= least
    own = found[whose[taken]]
    classes[taken] = own[:, 4].long() + 1
    offsets[taken] = encode(own[:, :4], anchors[taken])
    return classes, offsets
