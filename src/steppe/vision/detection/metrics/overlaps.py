"""How much detections and objects overlap, of all images and classes at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steppe.vision.detection.boxes import covered, iou
from steppe.vision.detection.detections import Detections
from steppe.vision.detection.targets import CROWD

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]

AT_ONCE = 2**20
"""Pairs whose overlaps are in memory together."""


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Pairs of a detection and an object of its image and class that overlap enough.

    Args:
        scores: of the detections, ``[d]``, by class, image and falling score.
        labels: their classes, ``[d]``, rising.
        ranks: of a detection among those of its image and class, from 0, ``[d]``.
        object_labels: classes of the objects, ``[m]``.
        flags: of the objects, see `steppe.vision.detection.targets`, ``[m]``.
        detection: the detection of each pair, ``[p]``, rising.
        object: its object, ``[p]``.
        overlap: of the pair, ``[p]``: intersection over union; with a crowd, whose box is around
            many objects, the share of the detection that lies in it.
        least: of the overlaps.
    """

    scores: Floats
    labels: Rows
    ranks: Rows
    object_labels: Rows
    flags: Rows
    detection: Rows
    object: Rows
    overlap: Floats
    least: float

    def best(self, limit: int) -> Overlaps:
        """Only the best detections of each image and class.

        Args:
            limit: of their number.
        """
        kept = self.ranks < limit
        pairs, places = kept[self.detection], np.cumsum(kept) - 1
        return replace(
            self,
            scores=self.scores[kept],
            labels=self.labels[kept],
            ranks=self.ranks[kept],
            detection=places[self.detection[pairs]],
            object=self.object[pairs],
            overlap=self.overlap[pairs],
        )

    def curves(
        self, right: Flags, ignored: Flags, classes: int
    ) -> Iterator[tuple[Floats, Floats] | None]:
        """Of each class recall and precision after each detection, by falling score.

        Args:
            right: whether a detection is, ``[d]``.
            ignored: whether it does not count, ``[d]``.
            classes: their number.

        Yields:
            None where no object counts.
        """
        wanted = np.bincount(self.object_labels[self.flags == 0], minlength=classes)
        ends = np.searchsorted(self.labels, np.arange(classes + 1))
        for label in range(classes):
            if not wanted[label]:
                yield None
                continue
            own = slice(ends[label], ends[label + 1])
            order = np.argsort(-self.scores[own], kind="stable")
            order = order[~ignored[own][order]]
            hits = np.cumsum(right[own][order])
            yield hits / wanted[label], hits / np.arange(1, len(order) + 1)


def overlaps_of(
    detections: Sequence[Detections], objects: Sequence[Tensor], least: float
) -> Overlaps:
    """The overlaps of all images and classes.

    Args:
        detections: of each image.
        objects: of each image, ``[k, 6]``, see `steppe.vision.detection.targets`.
        least: pairs that overlap by less are left out.
    """
    images = len(detections)
    boxes = torch.cat([own.boxes for own in detections]).double()
    scores = torch.cat([own.scores for own in detections]).double()
    labels = torch.cat([own.labels for own in detections])
    there = torch.cat(list(objects))
    cells = labels * images + _places(detections)
    order = scores.argsort(descending=True, stable=True)
    order = order[cells[order].argsort(stable=True)]
    boxes, cells = boxes[order], cells[order]
    object_cells = there[:, 4].long() * images + _places(objects)
    object_order = object_cells.argsort(stable=True)
    there, object_cells = there[object_order], object_cells[object_order]
    first = torch.searchsorted(object_cells, cells)
    pairs = _pairs(boxes, there, first, torch.searchsorted(object_cells, cells, right=True), least)
    return Overlaps(
        scores[order].numpy(),
        labels[order].numpy(),
        (torch.arange(len(cells)) - torch.searchsorted(cells, cells)).numpy(),
        there[:, 4].long().numpy(),
        there[:, 5].long().numpy(),
        *pairs,
        least,
    )


def _places(each: Sequence[Detections] | Sequence[Tensor]) -> Tensor:
    """The image of each row."""
    return torch.arange(len(each)).repeat_interleave(torch.tensor([len(own) for own in each]))


def _pairs(
    boxes: Tensor, there: Tensor, first: Tensor, end: Tensor, least: float
) -> tuple[Rows, Rows, Floats]:
    """Detection, object and overlap of the pairs; a detection's objects lie in a row."""
    counts = end - first
    totals = counts.cumsum(0)
    detection, object_, overlap = [], [], []
    start = 0
    while start < len(boxes):
        before = totals[start] - counts[start]
        stop = int(torch.searchsorted(totals, before + AT_ONCE, right=True))
        stop = max(stop, start + 1)
        own = torch.arange(start, stop).repeat_interleave(counts[start:stop])
        place = torch.arange(len(own)) + before - (totals - counts)[own] + first[own]
        pair = boxes[own][:, None], there[place, None, :4].double()
        crowd = there[place, 5] == CROWD
        amount = torch.where(crowd, covered(*pair).flatten(), iou(*pair).flatten())
        kept = amount >= least
        detection.append(own[kept])
        object_.append(place[kept])
        overlap.append(amount[kept])
        start = stop
    nothing = torch.zeros(0, dtype=torch.long)
    return (
        torch.cat([nothing, *detection]).numpy(),
        torch.cat([nothing, *object_]).numpy(),
        torch.cat([nothing.double(), *overlap]).numpy(),
    )
