"""The loss of sets whose outputs score every class by itself (RT-DETR)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from steppe.vision.detection.boxes import cornered, iou
from steppe.vision.detection.set_loss import box_losses, cheapest
from steppe.vision.detection.shared_batches import divisor
from steppe.vision.detection.targets import learned

CLASS = 2.0
"""Weight of the classes in the assignment, beside those of the boxes."""
FOUND, GAMMA = 0.25, 2.0
"""Of the focal loss in the assignment: weight of what is there, and the exponent."""
ELSEWHERE = 0.75
"""Of the loss: weight of what is not there."""


@torch.no_grad()
def focal_assigned(boxes: Tensor, logits: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest assignment of objects to outputs: (rows of the outputs, rows of the objects).

    Args:
        boxes: of one image, ``[n, 4]``, centre x, centre y, width, height.
        logits: ``[n, classes]``.
        found: ``[k, 6]``, see `steppe.vision.detection.targets`.

    Source: Zhu et al. 2021 (Deformable DETR); RT-DETR has it.
    """
    scores = logits.float().sigmoid()[:, found[:, 4].long()]
    there = FOUND * (1 - scores) ** GAMMA * -(scores + 1e-8).log()
    not_there = (1 - FOUND) * scores**GAMMA * -(1 - scores + 1e-8).log()
    return cheapest(CLASS * (there - not_there), boxes, found)


def focal_set_loss(
    boxes: Tensor, logits: Tensor, targets: Tensor, *, shared: bool = False
) -> Tensor:
    """Varifocal loss of the classes, L1 distance and generalised overlap of the assigned boxes.

    ``(sum of w BCE(logit, q) + 5 sum |b - b'| + 2 sum (1 - GIoU)) / objects``, where q is the
    overlap of an assigned box for its object's class, and w = q; elsewhere q = 0 and
    w = 0.75 score^2.

    Args:
        boxes: ``[images, n, 4]``, centre x, centre y, width, height, shares of the image.
        logits: ``[images, n, classes]``.
        targets: ``[images, most, 6]``, see `steppe.vision.detection.targets`.
        shared: whether the batch is one of several processes, who all call this.

    Source: Zhao et al. 2024 (RT-DETR); Zhang et al. 2021 (varifocal loss).
    """
    boxes, logits = boxes.float(), logits.float()
    quality = torch.zeros_like(logits)
    there = torch.zeros_like(logits)
    located, count = boxes.sum() * 0, torch.zeros((), device=boxes.device)
    for image, found in enumerate(learned(targets)):
        rows, columns = focal_assigned(boxes[image], logits[image], found)
        own, wanted = boxes[image, rows], found[columns]
        located = located + box_losses(own, wanted)
        classes = wanted[:, 4].long()
        there[image, rows, classes] = 1.0
        quality[image, rows, classes] = overlaps(own.detach(), wanted)
        count += len(found)
    scores = logits.detach().sigmoid()
    weight = ELSEWHERE * scores**GAMMA * (1 - there) + quality
    entropy = F.binary_cross_entropy_with_logits(logits, quality, weight, reduction="sum")
    return (entropy + located) / divisor(count, shared)


def overlaps(boxes: Tensor, found: Tensor) -> Tensor:
    """Intersection over union of each box with its object."""
    return iou(cornered(boxes)[:, None], found[:, None, :4]).flatten()
