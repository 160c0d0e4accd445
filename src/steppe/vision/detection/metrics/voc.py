"""Average precision by the rules of Pascal VOC."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from steppe.vision.detection.metrics import Floats, Found, Precision, curve


def voc_ap(found: Sequence[Found], precision: Precision, least: float = 0.5) -> float:
    """Average precision of one class.

    A detection belongs to the object that it overlaps most, in its image. It is right where they
    overlap by more than ``least`` and no better one was right for that object; one that belongs to
    a difficult object does not count. Pascal VOC has no crowds: a detection that is not right and
    of whose area more than ``least`` lies in a crowd does not count, as in COCO.

    Args:
        found: the class in every image.
        precision: `all_points` or `eleven_points`.
        least: intersection over union.

    Returns:
        In [0, 1]; NaN where no object counts.

    Source: Everingham et al. 2010, section 4.2, and the development kit's code.
    """

    def match(own: Found) -> tuple[list[bool], list[bool]]:
        taken = np.zeros(len(own.ignored), dtype=bool)
        right, ignored = [], []
        for overlaps in own.overlaps:
            single = np.where(own.crowd, 0.0, overlaps)
            best = int(single.argmax()) if len(single) else -1
            near = best >= 0 and single[best] > least
            right.append(bool(near and not own.ignored[best] and not taken[best]))
            crowded = bool((overlaps[own.crowd] > least).any()) and not right[-1]
            ignored.append(crowded or bool(near and own.ignored[best]))
            if near:
                taken[best] = True
        return right, ignored

    curves = curve(found, match)
    return math.nan if curves is None else precision(*curves)


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
