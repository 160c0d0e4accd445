"""Boxes with axes: overlap, offsets from anchors, non-maximum suppression."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steppe.core.optional_import import optional, tell_broken

VARIANCES = (0.1, 0.2)
"""Offsets of centres and of log sizes are divided by these, so that both have about unit size."""


def areas(boxes: Tensor) -> Tensor:
    """Areas of boxes; 0 where a box is turned inside out.

    Args:
        boxes: ``[..., 4]``, left, top, right, bottom.
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0)
    return sides[..., 0] * sides[..., 1]


def shared(a: Tensor, b: Tensor) -> Tensor:
    """Areas that all pairs of boxes have in common, ``[..., n, m]``.

    Args:
        a: ``[..., n, 4]``, left, top, right, bottom.
        b: ``[..., m, 4]``.
    """
    corner = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    end = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    sides = (end - corner).clamp_min(0)
    return sides[..., 0] * sides[..., 1]


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of all pairs; 0 for two boxes without area.

    Args:
        a: ``[..., n, 4]``, left, top, right, bottom.
        b: ``[..., m, 4]``.

    Returns:
        ``[..., n, m]`` in [0, 1].

    Example:
        >>> iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [4, 4, 5, 5]]))
        tensor([[0.3333, 0.0000]])
    """
    common = shared(a, b)
    union = areas(a)[..., :, None] + areas(b)[..., None, :] - common
    return torch.where(union > 0, common / union.clamp_min(torch.finfo(union.dtype).tiny), 0)


def covered(a: Tensor, b: Tensor) -> Tensor:
    """The share of each box's area that lies in each other one; 0 of a box without area.

    Args:
        a: ``[..., n, 4]``, left, top, right, bottom.
        b: ``[..., m, 4]``.

    Returns:
        ``[..., n, m]`` in [0, 1].

    Example:
        >>> covered(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 9]]))
        tensor([[0.5000]])
    """
    own = areas(a)[..., :, None]
    return torch.where(own > 0, shared(a, b) / own.clamp_min(torch.finfo(own.dtype).tiny), 0)


def centred(boxes: Tensor) -> Tensor:
    """Left, top, right, bottom -> centre x, centre y, width, height; ``[..., 4]``."""
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)


def cornered(boxes: Tensor) -> Tensor:
    """Centre x, centre y, width, height -> left, top, right, bottom; ``[..., 4]``."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Where boxes lie as seen from anchors: what an SSD predicts.

    ``((cx - cx_a) / w_a / 0.1, (cy - cy_a) / h_a / 0.1, ln(w / w_a) / 0.2, ln(h / h_a) / 0.2)``

    Args:
        boxes: ``[..., 4]``, left, top, right, bottom, with area.
        anchors: ``[..., 4]``, centre x, centre y, width, height.

    Source: Liu et al. 2016, eq. 2; the divisors are of their code.
    """
    own = centred(boxes)
    centres = (own[..., :2] - anchors[..., :2]) / anchors[..., 2:] / VARIANCES[0]
    return torch.cat([centres, (own[..., 2:] / anchors[..., 2:]).log() / VARIANCES[1]], -1)


def decode(offsets: Tensor, anchors: Tensor) -> Tensor:
    """The boxes that offsets stand for; undoes `encode`.

    Args:
        offsets: ``[..., 4]``.
        anchors: ``[..., 4]``, centre x, centre y, width, height.

    Returns:
        ``[..., 4]``, left, top, right, bottom.

    Example:
        >>> anchors = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
        >>> decode(encode(torch.tensor([[0.1, 0.2, 0.5, 0.6]]), anchors), anchors)
        tensor([[0.1000, 0.2000, 0.5000, 0.6000]])
    """
    centres = offsets[..., :2] * VARIANCES[0] * anchors[..., 2:] + anchors[..., :2]
    sizes = (offsets[..., 2:] * VARIANCES[1]).exp() * anchors[..., 2:]
    return cornered(torch.cat([centres, sizes], -1))


def nms(boxes: Tensor, scores: Tensor, most: float, limit: int | None = None) -> Tensor:
    """Of boxes that overlap only the best: greedy, from the highest score down.

    Every box is kept that overlaps none of those kept before it by more than ``most``. Of equal
    scores the first box comes first. Where torchvision is installed it computes this; where that
    does not work with this torch or device a warning says so, and this code does.

    Args:
        boxes: ``[n, 4]``, left, top, right, bottom.
        scores: ``[n]``.
        most: the largest intersection over union that two kept boxes may have.
        limit: of the boxes that are kept; None for none.

    Returns:
        The rows of the kept boxes, best first.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2.1], [5, 5, 6, 6]])
        >>> nms(boxes, torch.tensor([0.6, 0.9, 0.1]), 0.5)
        tensor([1, 2])
    """
    compiled = _compiled_nms(boxes.device.type)
    if compiled is not None:
        return compiled(boxes, scores.to(boxes.dtype), most)[:limit]
    order = scores.argsort(descending=True, stable=True)
    ranked = boxes[order]
    near = iou(ranked, ranked) > most
    gone = torch.zeros(len(order), dtype=torch.bool)
    # rows one after the other on the host: what a kept box drives out depends on those before it
    near = near.cpu()
    kept: list[int] = []
    for row in range(len(order)):
        if not gone[row]:
            kept.append(row)
            if limit is not None and len(kept) == limit:
                break
            gone |= near[row]
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]


@functools.cache
def _compiled_nms(device: str) -> Callable[[Tensor, Tensor, float], Tensor] | None:
    """torchvision's, which needs no loop on the host; None where there is none that works."""
    instead = "boxes are suppressed by steppe's own code, which is slower"
    operators: Any = optional("torchvision.ops", instead=instead)
    if operators is None:
        return None
    try:
        nms = operators.nms
        nms(torch.zeros(1, 4, device=device), torch.zeros(1, device=device), 0.5)
    except Exception as error:  # it may have been built for another torch, or without this device
        tell_broken("torchvision", error, instead)
        return None
    return nms  # type: ignore[no-any-return]
