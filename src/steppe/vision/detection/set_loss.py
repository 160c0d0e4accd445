"""The loss of detectors that give a set: each object is one output's, the others give nothing."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from steppe.vision.detection.boxes import areas, centred, cornered, iou
from steppe.vision.detection.shared_batches import divisor
from steppe.vision.detection.targets import learned

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


def cheapest(of_classes: Tensor, boxes: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest assignment of objects to outputs: (rows of the outputs, rows of the objects).

    ``classes + 5 |b - b'| - 2 GIoU``, summed over the objects, is as small as it can be.

    Args:
        of_classes: what the classes cost, ``[n, k]``.
        boxes: of one image, ``[n, 4]``, centre x, centre y, width, height.
        found: ``[k, 6]``, see `steppe.vision.detection.targets`.

    Source: Carion et al. 2020, section 3.1.
    """
    boxes = boxes.float()
    cost = of_classes + DISTANCE * torch.cdist(boxes, centred(found[:, :4]), p=1)
    cost = cost - OVERLAP * generalised_iou(cornered(boxes), found[:, :4])
    # of a network that has diverged, whose loss says so
    rows, columns = linear_sum_assignment(cost.nan_to_num(1e9, 1e9, -1e9).cpu().numpy())
    return torch.as_tensor(rows, device=boxes.device), torch.as_tensor(columns, device=boxes.device)


@torch.no_grad()
def assigned(boxes: Tensor, logits: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """`cheapest`, where a class costs what its probability lacks.

    Args:
        boxes: of one image, ``[n, 4]``, centre x, centre y, width, height.
        logits: ``[n, classes + 1]``, nothing last.
        found: ``[k, 6]``, see `steppe.vision.detection.targets`.
    """
    return cheapest(-logits.float().softmax(-1)[:, found[:, 4].long()], boxes, found)


def box_losses(boxes: Tensor, found: Tensor) -> Tensor:
    """``5 sum |b - b'| + 2 sum (1 - GIoU)`` of boxes and their objects.

    Args:
        boxes: ``[k, 4]``, centre x, centre y, width, height.
        found: ``[k, 6]``, see `steppe.vision.detection.targets`.
    """
    overlap = generalised_iou(cornered(boxes), found[:, :4]).diagonal()
    return DISTANCE * (boxes - centred(found[:, :4])).abs().sum() + OVERLAP * (1 - overlap).sum()


def set_loss(
    boxes: Tensor,
    logits: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    shared: bool = False,
) -> Tensor:
    """Cross entropy of the classes, L1 distance and generalised overlap of the assigned boxes.

    ``CE + (5 sum |b - b'| + 2 sum (1 - GIoU)) / objects``; the cross entropy is a mean in which
    outputs that shall give nothing weigh a tenth.

    Args:
        boxes: ``[images, n, 4]``, centre x, centre y, width, height, shares of the image.
        logits: ``[images, n, classes + 1]``, nothing last.
        targets: ``[images, most, 6]``, see `steppe.vision.detection.targets`.
        label_smoothing: of the cross entropy.
        shared: whether the batch is one of several processes, who all call this.

    Source: Carion et al. 2020 (DETR), without auxiliary losses; YOLOS (Fang et al. 2021) has it.
    """
    boxes, logits = boxes.float(), logits.float()
    nothing = logits.shape[-1] - 1
    classes = torch.full(logits.shape[:2], nothing, dtype=torch.long, device=logits.device)
    located, count = boxes.sum() * 0, torch.zeros((), device=boxes.device)
    for image, found in enumerate(learned(targets)):
        rows, columns = assigned(boxes[image], logits[image], found)
        classes[image, rows] = found[columns, 4].long()
        located = located + box_losses(boxes[image, rows], found[columns])
        count += len(found)
    weight = torch.ones(nothing + 1, device=logits.device)
    weight[nothing] = NOTHING
    entropy = F.cross_entropy(
        logits.flatten(0, 1),
        classes.flatten(),
        weight,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    of_entropy = divisor(weight[classes].sum(), shared, least=0.0)
    return entropy / of_entropy + located / divisor(count, shared)
