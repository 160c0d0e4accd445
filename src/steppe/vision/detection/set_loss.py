"""The loss of detectors that give a set: each object is one output's, the others give nothing."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from steppe.vision.detection.boxes import areas, cornered, iou
from steppe.vision.detection.targets import objects

DISTANCE, OVERLAP = 5.0, 2.0
"""Weights of the boxes' L1 distance and of their overlap, beside the classes' 1."""
NOTHING = 0.1
"""Weight of the outputs that shall give nothing."""


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """``IoU - (hull - union) / hull`` of all pairs, in (-1, 1].

    Args:
        a: ``[n, 4]``, left, top, right, bottom.
        b: ``[m, 4]``.

    Returns:
        ``[n, m]``.

    Source: Rezatofighi et al. 2019.

    Example:
        >>> box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        >>> generalised_iou(box, torch.tensor([[0.0, 0, 1, 1], [1.0, 0, 2, 1]]))
        tensor([[1., 0.]])
    """
    start = torch.minimum(a[:, None, :2], b[None, :, :2])
    end = torch.maximum(a[:, None, 2:], b[None, :, 2:])
    sides = (end - start).clamp_min(0)
    hull = (sides[..., 0] * sides[..., 1]).clamp_min(1e-9)
    overlap = iou(a, b)
    union = (areas(a)[:, None] + areas(b)[None]) / (1 + overlap)
    return overlap - (hull - union) / hull


@torch.no_grad()
def assigned(boxes: Tensor, logits: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest assignment of objects to outputs: (rows of the outputs, rows of the objects).

    Args:
        boxes: of one image, ``[n, 4]``, centre x, centre y, width, height.
        logits: ``[n, classes + 1]``, nothing last.
        found: ``[k, 6]``, see `steppe.vision.detection.targets`.

    Source: Carion et al. 2020, section 3.1.
    """
    wanted = centred_of(found)
    cost = DISTANCE * torch.cdist(boxes, wanted, p=1)
    cost -= logits.softmax(-1)[:, found[:, 4].long()]
    cost -= OVERLAP * generalised_iou(cornered(boxes), found[:, :4])
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    device = boxes.device
    return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)


def centred_of(found: Tensor) -> Tensor:
    """Boxes of objects as centre x, centre y, width, height."""
    return torch.cat([(found[:, :2] + found[:, 2:4]) / 2, found[:, 2:4] - found[:, :2]], 1)


def set_loss(
    boxes: Tensor, logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0
) -> Tensor:
    """Cross entropy of the classes, L1 distance and generalised overlap of the assigned boxes.

    ``CE + (5 sum |b - b'| + 2 sum (1 - GIoU)) / objects``; the cross entropy is a mean in which
    outputs that shall give nothing weigh a tenth.

    Args:
        boxes: ``[images, n, 4]``, centre x, centre y, width, height, shares of the image.
        logits: ``[images, n, classes + 1]``, nothing last.
        targets: ``[images, most, 6]``, see `steppe.vision.detection.targets`.
        label_smoothing: of the cross entropy.

    Source: Carion et al. 2020 (DETR), without auxiliary losses; YOLOS (Fang et al. 2021) has it.
    """
    boxes, logits = boxes.float(), logits.float()
    nothing = logits.shape[-1] - 1
    classes = torch.full(logits.shape[:2], nothing, dtype=torch.long, device=logits.device)
    distance, apart, count = boxes.sum() * 0, boxes.sum() * 0, 0
    for image, found in enumerate(objects(targets)):
        rows, columns = assigned(boxes[image], logits[image], found)
        own, there = boxes[image, rows], found[columns]
        classes[image, rows] = there[:, 4].long()
        distance = distance + (own - centred_of(there)).abs().sum()
        overlap = generalised_iou(cornered(own), there[:, :4]).diagonal()
        apart = apart + (1 - overlap).sum()
        count += len(found)
    weight = torch.ones(nothing + 1, device=logits.device)
    weight[nothing] = NOTHING
    entropy = F.cross_entropy(
        logits.flatten(0, 1), classes.flatten(), weight, label_smoothing=label_smoothing
    )
    return entropy + (DISTANCE * distance + OVERLAP * apart) / max(count, 1)
