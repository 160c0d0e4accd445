"""Mean average precision: by Pascal VOC's rules (all-point, 11-point) and by COCO's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.vision.detection.detections import Detections, check_numbers
from steppe.vision.detection.metrics.coco import THRESHOLDS, coco_precisions
from steppe.vision.detection.metrics.overlaps import overlaps_of
from steppe.vision.detection.metrics.voc import all_points, eleven_points, voc_precisions


def mean_precisions(
    detections: Sequence[Detections], objects: Sequence[Tensor], classes: Sequence[str]
) -> dict[str, Any]:
    """All that a record says of the quality of a detector.

    All images and classes are looked at together. Time grows as the pairs of a detection and an
    object of one image and class, whose overlaps are computed once, a part of them at a time.
    Detections that overlap an object enough choose in turns, of which there are as many as such
    detections in the image and class that has most. Memory grows as the detections and the pairs
    that overlap enough do.

    Args:
        detections: of each image.
        objects: of each image, ``[k, 6]``, see `steppe.vision.detection.targets`.
        classes: names in label order.

    Returns:
        ``map`` (COCO's, over the overlaps 0.5 to 0.95), ``map50`` (Pascal VOC's at 0.5, the area
        below the curve), ``map50_11`` (VOC 2007's, at 11 recalls), and ``classes``: name -> the
        three of it. Means are over the classes that have an object that counts; a class without
        one has None.

    Raises:
        SteppeError: no object counts, or a detection is no finite number.
    """
    for own in detections:
        check_numbers(own.boxes, own.scores)
    whole = overlaps_of(detections, objects, min(THRESHOLDS))
    area, eleven = voc_precisions(whole, len(classes), (all_points, eleven_points))
    rules = {
        "map": coco_precisions(whole, len(classes)),
        "map50": area,
        "map50_11": eleven,
    }
    means = {}
    for rule, each in rules.items():
        values = [own for own in each if not math.isnan(own)]
        if not values:
            raise SteppeError(
                "a mean precision is that of objects that count",
                got=f"none in {len(objects)} images, apart from difficult ones and crowds",
                way_out="images with such objects",
            )
        means[rule] = fmean(values)
    known = {
        name: {
            rule: None if math.isnan(each[label]) else each[label] for rule, each in rules.items()
        }
        for label, name in enumerate(classes)
    }
    return {**means, "classes": known}
