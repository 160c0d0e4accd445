"""The loss of a detector of one pass: classes with hard negatives, and smooth L1 of the boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from steppe.vision.detection.matching import BACKGROUND, match
from steppe.vision.detection.shared_batches import divisor
from steppe.vision.detection.targets import learned

NEGATIVES = 3
"""Of the background at most so many anchors count for each that stands for an object."""


def matched(targets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """`match` of a batch: classes ``[images, n]``, offsets ``[images, n, 4]``.

    Crowds stand for no anchor, see `learned`.

    Args:
        targets: ``[images, most, 6]``, see `steppe.vision.detection.targets`.
        anchors: ``[n, 4]``.
    """
    pairs = [match(found, anchors) for found in learned(targets)]
    classes, offsets = zip(*pairs, strict=True)
    return torch.stack(classes), torch.stack(offsets)


def hard_negatives(losses: Tensor, positive: Tensor) -> Tensor:
    """Of each image the background's anchors of the largest loss, three for each positive one.

    Args:
        losses: of the classes, ``[images, n]``.
        positive: which anchors stand for an object, ``[images, n]``.

    Returns:
        True for those that count, ``[images, n]``.

    Example:
        >>> losses = torch.tensor([[5.0, 1, 2, 3, 4, 0]])
        >>> positive = torch.tensor([[True, False, False, False, False, False]])
        >>> hard_negatives(losses, positive).tolist()
        [[False, False, True, True, True, False]]
    """
    ranked = losses.detach().masked_fill(positive, -torch.inf).argsort(1, descending=True)
    rank = torch.empty_like(ranked)
    places = torch.arange(losses.shape[1], device=losses.device).expand_as(ranked)
    rank.scatter_(1, ranked, places)
    return (rank < NEGATIVES * positive.sum(1, keepdim=True)) & ~positive


def ssd_loss(
    offsets: Tensor,
    logits: Tensor,
    targets: Tensor,
    anchors: Tensor,
    *,
    weight: float = 1.0,
    label_smoothing: float = 0.0,
    shared: bool = False,
) -> Tensor:
    """``(sum of the classes' cross entropies + weight * sum of smooth L1) / N``.

    N is the number of anchors in the batch that stand for an object. Boxes count for these alone,
    classes for these and for three times as many of the background, the hardest of each image. A
    batch without any object has loss 0.

    Args:
        offsets: ``[images, n, 4]``, see `steppe.vision.detection.boxes.encode`.
        logits: ``[images, n, 1 + classes]``, the background first.
        targets: ``[images, most, 6]``, see `steppe.vision.detection.targets`.
        anchors: ``[n, 4]``, centre x, centre y, width, height.
        weight: alpha, of the boxes.
        label_smoothing: of the cross entropies.
        shared: whether the batch is one of several processes, who all call this.

    Source: Liu et al. 2016, eqs. 1 to 3 and section 2.2.
    """
    classes, wanted = matched(targets, anchors)
    positive = classes != BACKGROUND
    flat = F.cross_entropy(
        logits.float().flatten(0, 1),
        classes.flatten(),
        reduction="none",
        label_smoothing=label_smoothing,
    )
    losses = flat.view_as(classes)
    counted = positive | hard_negatives(losses, positive)
    confidence = (losses * counted).sum()
    localisation = F.smooth_l1_loss(offsets[positive].float(), wanted[positive], reduction="sum")
    return (confidence + weight * localisation) / divisor(positive.sum(), shared)
