"""Mean average precision: by Pascal VOC's rules (all-point, 11-point) and by COCO's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steppe.vision.detection.boxes import covered, iou
from steppe.vision.detection.detections import Detections
from steppe.vision.detection.targets import CROWD

Floats = NDArray[np.float64]
Precision = Callable[[Floats, Floats], float]
"""(recall, precision), both by falling score -> average precision."""

THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))
"""The overlaps of COCO's mean."""


@dataclass(frozen=True, eq=False)
class Found:
    """One class in one image, ready to be matched.

    Args:
        scores: of the detections, falling, ``[n]``.
        overlaps: with the objects, ``[n, m]``: intersection over union; with a crowd, whose box
            is around many, the share of the detection that lies in it.
        ignored: which objects count neither as found nor as missed, ``[m]``.
        crowd: which of these stand for a crowd, ``[m]``.
    """

    scores: Floats
    overlaps: Floats
    ignored: NDArray[np.bool_]
    crowd: NDArray[np.bool_]


def of_class(
    detections: Sequence[Detections], objects: Sequence[Tensor], label: int, limit: int | None
) -> list[Found]:
    """One class in every image.

    Args:
        detections: of each image.
        objects: of each image, ``[k, 6]``, see `steppe.vision.detection.targets`.
        label: the class.
        limit: detections of the class that count in an image, the best; None for all.
    """
    found = []
    for own, there in zip(detections, objects, strict=True):
        chosen = own.labels == label
        wanted = there[there[:, 4] == label]
        order = own.scores[chosen].argsort(descending=True, stable=True)[:limit]
        boxes, crowd = own.boxes[chosen][order].double(), wanted[:, 5] == CROWD
        pair = boxes, wanted[:, :4].double()
        overlaps = torch.where(crowd, covered(*pair), iou(*pair)).numpy()
        scores = own.scores[chosen][order].double().numpy()
        found.append(Found(scores, overlaps, wanted[:, 5].numpy() > 0, crowd.numpy()))
    return found


def curve(
    found: Sequence[Found], match: Callable[[Found], tuple[list[bool], list[bool]]]
) -> tuple[Floats, Floats] | None:
    """Recall and precision after each detection, by falling score over all images.

    Args:
        found: one class in every image.
        match: an image -> for each detection whether it is right, and whether it does not count.

    Returns:
        None where no object counts.
    """
    wanted = sum(int((~own.ignored).sum()) for own in found)
    if not wanted:
        return None
    matched = [match(own) for own in found]
    right = np.array([r for rights, _ in matched for r in rights], dtype=bool)
    ignored = np.array([i for _, ignores in matched for i in ignores], dtype=bool)
    scores = np.concatenate([own.scores for own in found])
    order = np.argsort(-scores, kind="stable")
    order = order[~ignored[order]]
    hits = np.cumsum(right[order])
    return hits / wanted, hits / np.arange(1, len(order) + 1)


def mean_precisions(
    detections: Sequence[Detections], objects: Sequence[Tensor], classes: Sequence[str]
) -> dict[str, Any]:
    """All that a record says of the quality of a detector.

    Args:
        detections: of each image.
        objects: of each image, ``[k, 6]``, see `steppe.vision.detection.targets`.
        classes: names in label order.

    Returns:
        ``map`` (COCO's, over the overlaps 0.5 to 0.95), ``map50`` (Pascal VOC's at 0.5, the area
        below the curve), ``map50_11`` (VOC 2007's, at 11 recalls), and ``classes``: name -> the
        three of it. Means are over the classes that have an object; a class without one has None.
    """
    from steppe.vision.detection.metrics.coco import coco_ap
    from steppe.vision.detection.metrics.voc import all_points, eleven_points, voc_ap

    rules: dict[str, Callable[[int], float]] = {
        "map": lambda label: coco_ap(of_class(detections, objects, label, 100)),
        "map50": lambda label: voc_ap(of_class(detections, objects, label, None), all_points),
        "map50_11": lambda label: voc_ap(of_class(detections, objects, label, None), eleven_points),
    }
    each = {
        name: {rule: compute(label) for rule, compute in rules.items()}
        for label, name in enumerate(classes)
    }
    means = {}
    for rule in rules:
        values = [own[rule] for own in each.values() if not math.isnan(own[rule])]
        means[rule] = fmean(values) if values else 0.0
    known = {
        name: {rule: None if math.isnan(v) else v for rule, v in own.items()}
        for name, own in each.items()
    }
    return {**means, "classes": known}
