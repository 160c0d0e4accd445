"""Average precision by the rules of COCO, as pycocotools computes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from steppe.vision.detection.metrics import THRESHOLDS, Floats, Found, curve

RECALLS = np.linspace(0.0, 1.0, 101)


def coco_ap(found: Sequence[Found], thresholds: Sequence[float] = THRESHOLDS) -> float:
    """Mean over the thresholds of the average precision of one class.

    A detection takes, of the objects that no better one has taken, that which it overlaps most, if
    by at least the threshold; objects that count come before those that do not, and a crowd can be
    taken any number of times. Precision is read at 101 recalls.

    Args:
        found: the class in every image, of the 100 best detections of each.
        thresholds: intersection over union.

    Returns:
        In [0, 1]; NaN where no object counts.

    Source: cocodataset.org, detection evaluation.
    """
    values = []
    for least in thresholds:
        curves = curve(found, partial(_match, least=least))
        if curves is None:
            return math.nan
        values.append(_at_recalls(*curves))
    return float(np.mean(values))


def _match(own: Found, least: float) -> tuple[list[bool], list[bool]]:
    taken = np.zeros(len(own.ignored), dtype=bool)
    order = np.argsort(own.ignored, kind="stable")
    right, ignored = [], []
    for overlaps in own.overlaps:
        best, most = -1, min(least, 1 - 1e-10)
        for place in order:
            if taken[place] and not own.crowd[place]:
                continue
            if best >= 0 and own.ignored[place] and not own.ignored[best]:
                break  # one that counts is kept, whatever else is there
            if overlaps[place] >= most:
                best, most = int(place), float(overlaps[place])
        if best >= 0:
            taken[best] = True
        ignored.append(bool(best >= 0 and own.ignored[best]))
        right.append(bool(best >= 0 and not own.ignored[best]))
    return right, ignored


def _at_recalls(recall: Floats, precision: Floats) -> float:
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    return float(np.mean([best[place] if place < len(best) else 0.0 for place in places]))
