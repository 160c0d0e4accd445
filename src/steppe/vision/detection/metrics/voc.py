"""Average precision by the rules of Pascal VOC."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from steppe.vision.detection.metrics.overlaps import Flags, Floats, Overlaps
from steppe.vision.detection.targets import CROWD

Precision = Callable[[Floats, Floats], float]
"""(recall, precision), both by falling score -> average precision."""


def voc_precisions(
    overlaps: Overlaps, classes: int, rules: Sequence[Precision], least: float = 0.5
) -> list[list[float]]:
    """Average precisions of each class.

    A detection belongs to the object that it overlaps most, in its image. It is right where they
    overlap by at least ``least`` and no better one was right for that object; one that belongs to
    a difficult object does not count. Pascal VOC has no crowds: a detection that is not right and
    of whose area at least ``least`` lies in a crowd does not count, as in COCO.

    Args:
        overlaps: of all images and classes.
        classes: their number.
        rules: of `all_points` and `eleven_points`.
        least: intersection over union.

    Returns:
        For each rule those of the classes, in [0, 1]; NaN where no object counts.

    Source: the development kit's code (VOCevaldet.m: ``ovmax>=VOCopts.minoverlap``); the paper
    (Everingham et al. 2010, section 4.2) says more than 0.5, as have the copies of it in Python.
    """
    assert overlaps.least <= least, overlaps.least
    curves = list(overlaps.curves(*_judged(overlaps, least), classes))
    return [[math.nan if own is None else rule(*own) for own in curves] for rule in rules]


def _judged(own: Overlaps, least: float) -> tuple[Flags, Flags]:
    """Whether each detection is right, and whether it does not count, ``[d]``."""
    right, ignored = (np.zeros(len(own.scores), dtype=bool) for _ in range(2))
    near, crowd = own.overlap >= least, own.flags[own.object] == CROWD
    ignored[own.detection[near & crowd]] = True
    order = np.lexsort((own.object, -own.overlap, own.detection))
    order = order[(near & ~crowd)[order]]
    belonging, first = np.unique(own.detection[order], return_index=True)
    best = own.object[order][first]
    # detections are by falling score, so that of an object's the first is the best
    taken, first = np.unique(best, return_index=True)
    right[belonging[first[own.flags[taken] == 0]]] = True
    ignored[belonging[own.flags[best] > 0]] = True
    return right, ignored & ~right


def all_points(recall: Floats, precision: Floats) -> float:
    """The area below the curve, at each recall the best precision from there on (VOC since 2010).

    Example:
        >>> all_points(np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3]))
        0.8333333333333333
    """
    recall = np.concatenate([[0.0], recall])
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * best).sum())


def eleven_points(recall: Floats, precision: Floats) -> float:
    """The mean over the recalls 0, 0.1, ... 1 of the best precision from there on (VOC 2007).

    Example:
        >>> round(eleven_points(np.array([0.5]), np.array([1.0])), 4)  # 6 of 11
        0.5455
    """
    points = [precision[recall >= at / 10] for at in range(11)]
    return float(np.mean([own.max() if len(own) else 0.0 for own in points]))
