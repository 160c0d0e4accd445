"""Average precision by the rules of COCO, as pycocotools computes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from steppe.vision.detection.metrics.overlaps import Flags, Floats, Overlaps, Rows
from steppe.vision.detection.targets import CROWD

RECALLS = np.linspace(0.0, 1.0, 101)
THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))
"""The overlaps of COCO's mean."""
LIMIT = 100
"""Detections of a class that count in an image, the best."""


def coco_precisions(
    overlaps: Overlaps, classes: int, thresholds: Sequence[float] = THRESHOLDS
) -> list[float]:
    """Mean over the thresholds of the average precision of each class.

    Of an image's 100 best detections each takes, of the objects that no better one has taken, that
    which it overlaps most, if by at least the threshold; objects that count come before those that
    do not, and a crowd can be taken any number of times. Precision is read at 101 recalls.

    Args:
        overlaps: of all images and classes.
        classes: their number.
        thresholds: intersection over union.

    Returns:
        In [0, 1]; NaN where no object counts.

    Source: cocodataset.org, detection evaluation.
    """
    assert overlaps.least <= min(thresholds), overlaps.least
    few = overlaps.best(LIMIT)
    right, ignored = _judged(few, np.array(thresholds))
    values = [
        [math.nan if own is None else _at_recalls(*own) for own in few.curves(r, i, classes)]
        for r, i in zip(right, ignored, strict=True)
    ]
    return [float(own) for own in np.mean(values, 0)]


def _judged(own: Overlaps, thresholds: Floats) -> tuple[Flags, Flags]:
    """Whether each detection is right, and whether it does not count, ``[thresholds, d]``.

    What a detection takes depends on the better ones of its image and class alone: the best of all
    images and classes choose together, then the second best, and so on.
    """
    crowd, ignored = own.flags == CROWD, own.flags > 0
    turns = _turns(own)
    # in each turn a detection's pairs in the order in which it would take them; of equal overlaps
    # the last object comes first, as in pycocotools
    order = np.lexsort((-own.object, -own.overlap, ignored[own.object], own.detection, turns))
    detection, there, overlap = own.detection[order], own.object[order], own.overlap[order]
    ends = np.searchsorted(turns[order], np.arange(turns.max(initial=-1) + 2))
    enough = thresholds[:, None].clip(max=1 - 1e-10)
    taken = np.zeros((len(thresholds), len(own.flags)), dtype=bool)
    right = np.zeros((len(thresholds), len(own.scores)), dtype=bool)
    left_out = np.zeros_like(right)
    for start, end in pairwise(ends):
        who, objects = detection[start:end], there[start:end]
        free = (overlap[start:end] >= enough) & (crowd[objects] | ~taken[:, objects])
        begins = np.flatnonzero(np.diff(who, prepend=-1))
        place = np.where(free, np.arange(end - start), end - start)
        first = np.minimum.reduceat(place, begins, axis=1)
        rule, which = np.nonzero(first < end - start)
        chosen = objects[first[rule, which]]
        taken[rule, chosen] = True
        right[rule, who[begins[which]]] = ~ignored[chosen]
        left_out[rule, who[begins[which]]] = ignored[chosen]
    return right, left_out


def _turns(own: Overlaps) -> Rows:
    """Of each pair the number of its detection among those of image and class that have a pair."""
    cells = np.cumsum(own.ranks == 0)
    detections, inverse = np.unique(own.detection, return_inverse=True)
    theirs = cells[detections]
    return (np.arange(len(theirs)) - np.searchsorted(theirs, theirs))[inverse]


def _at_recalls(recall: Floats, precision: Floats) -> float:
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(np.mean(best[np.searchsorted(recall, RECALLS, side="left")]))
