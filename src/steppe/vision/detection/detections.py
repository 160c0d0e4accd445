"""What a detector says of an image: boxes with classes and scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
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

    @classmethod
    def best(cls, boxes: Tensor, scores: Tensor, labels: Tensor, limit: int) -> Detections:
        """The best of some boxes, each cut at the image's edges.

        Args:
            boxes: ``[n, 4]``, left, top, right, bottom, shares of the image.
            scores: ``[n]``.
            labels: ``[n]``.
            limit: boxes at most.

        Raises:
            SteppeError: a number is NaN.

        Example:
            >>> boxes = torch.tensor([[-0.2, 0.0, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0]])
            >>> Detections.best(boxes, torch.tensor([0.2, 0.9]), torch.tensor([4, 7]), 1).labels
            tensor([7])
        """
        check_numbers(boxes, scores)
        order = scores.argsort(descending=True, stable=True)[:limit]
        return cls(boxes[order].clamp(0, 1), scores[order], labels[order])

    def __len__(self) -> int:
        return len(self.scores)

    def cpu(self) -> Detections:
        """The same on the host."""
        return Detections(self.boxes.cpu(), self.scores.cpu(), self.labels.cpu())

    def above(self, least: float) -> Detections:
        """Those with at least this score."""
        kept = self.scores >= least
        return Detections(self.boxes[kept], self.scores[kept], self.labels[kept])


def check_numbers(boxes: Tensor, scores: Tensor) -> None:
    """Refuse boxes and scores that are no numbers, which would pass for nothing that was found.

    Args:
        boxes: ``[n, 4]``; what is infinite is cut at the image's edge.
        scores: ``[n, ...]``.

    Raises:
        SteppeError: one is NaN, or a score is infinite.

    Example:
        >>> check_numbers(torch.zeros(2, 4), torch.tensor([0.5, float("nan")]))
        Traceback (most recent call last):
        steppe.core.errors.SteppeError: a detector gives numbers; got NaN or infinity in 1 of 2 ...
    """
    wrong = boxes.isnan().any(1) | ~scores.view(*scores.shape, 1).flatten(1).isfinite().all(1)
    if bool(wrong.any()):
        raise SteppeError(
            "a detector gives numbers",
            got=f"NaN or infinity in {int(wrong.sum())} of {len(wrong)} boxes of an image",
            consequence="it would be measured as one that finds nothing",
            way_out="train anew with a lower learning rate (--lr)",
        )


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

        Raises:
            SteppeError: a number is NaN.
        """
        check_numbers(boxes, probabilities)
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
        found, scores, labels = map(torch.cat, (kept_boxes, kept_scores, kept_labels))
        return Detections.best(found, scores, labels, self.limit)
