"""What a detector says of an image: boxes with classes and scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.vision.detection.boxes import nms


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects found in an image, best first.

    Args:
        boxes: ``[n, 4]``, left, top, right, bottom, shares of the image.
        scores: ``[n]`` in [0, 1].
        labels: ``[n]``, int64, from 0.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def cpu(self) -> Detections:
        """The same on the host."""
        return Detections(self.boxes.cpu(), self.scores.cpu(), self.labels.cpu())

    def above(self, least: float) -> Detections:
        """Those with at least this score."""
        kept = self.scores >= least
        return Detections(self.boxes[kept], self.scores[kept], self.labels[kept])


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which of a network's boxes are told.

    Args:
        least: score of a box.
        overlap: intersection over union of two boxes of one class, at most.
        candidates: boxes of a class that are looked at, the best.
        limit: boxes of an image, over all classes.

    Source: Liu et al. 2016, section 2.3: 0.01, 0.45, 200.
    """

    least: float = 0.01
    overlap: float = 0.45
    candidates: int = 400
    limit: int = 200

    def of(self, boxes: Tensor, probabilities: Tensor) -> Detections:
        """The detections of an image.

        Args:
            boxes: ``[n, 4]``, left, top, right, bottom, shares of the image.
            probabilities: ``[n, classes]``, without the background.
        """
        boxes = boxes.clamp(0, 1)
        kept_boxes, kept_scores, kept_labels = [], [], []
        for label, scores in enumerate(probabilities.unbind(1)):
            rows = (scores > self.least).nonzero().flatten()
            if len(rows) > self.candidates:
                best = scores[rows].argsort(descending=True, stable=True)[: self.candidates]
                rows = rows[best]
            rows = rows[nms(boxes[rows], scores[rows], self.overlap, self.limit)]
            kept_boxes.append(boxes[rows])
            kept_scores.append(scores[rows])
            kept_labels.append(torch.full_like(rows, label))
        scores = torch.cat(kept_scores)
        order = scores.argsort(descending=True, stable=True)[: self.limit]
        return Detections(
            torch.cat(kept_boxes)[order], scores[order], torch.cat(kept_labels)[order]
        )
