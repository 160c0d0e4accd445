"""How good a detector is: each process looks at its share of the images, all know the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.engine import ranks
from steppe.vision.detection.detections import Detections
from steppe.vision.detection.loader import DetectionLoader
from steppe.vision.detection.metrics import mean_precisions
from steppe.vision.detection.reading import outputs_of, reading_of
from steppe.vision.detection.targets import objects


def measured(
    model: nn.Module, batches: DetectionLoader, classes: tuple[str, ...]
) -> dict[str, Any]:
    """Mean average precisions and loss of a detector, see `mean_precisions`.

    The loss is the mean over the images of each one's own, so that it depends on no batch.

    Args:
        model: in eval mode.
        batches: of all images in their order; or of this process's share, then all call this.
        classes: names in label order.

    Raises:
        SteppeError: it failed in another process.
    """
    failed: Exception | None = None
    found: list[Tensor] = []
    there: list[Tensor] = []
    loss = torch.zeros((), dtype=torch.float64)
    try:
        found, there, loss = _own(model, batches)
    except Exception as error:  # told to the others first, who would wait for this one
        failed = error
    if batches.world > 1:
        failures = torch.tensor(int(failed is not None))
        ranks.add_up([failures, loss])
        if failures and failed is None:
            raise SteppeError(
                "all processes measure their share",
                got="one that failed",
                way_out="it says why; mend that, and give the same command again",
            )
    if failed is not None:
        raise failed
    if batches.world > 1:
        found, there = (gathered(rows, batches.rank, batches.world) for rows in (found, there))
    detections = [Detections(own[:, :4], own[:, 4], own[:, 5].long()) for own in found]
    return mean_precisions(detections, there, classes) | {"loss": float(loss) / len(there)}


@torch.no_grad()
def _own(model: nn.Module, batches: DetectionLoader) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Of each image what is found (box, score, label) and what is there; the sum of the losses."""
    reading = reading_of(model)
    found: list[Tensor] = []
    there: list[Tensor] = []
    loss = torch.zeros((), dtype=torch.float64)
    for x, y in batches.epoch(0):
        outputs = outputs_of(model, x)
        for own in reading.detections(outputs):
            columns = (own.boxes, own.scores[:, None], own.labels[:, None].to(own.boxes.dtype))
            found.append(torch.cat(columns, 1).float().cpu())
        there += objects(y.cpu())
        for row in range(len(x)):
            loss += float(reading.loss(outputs[row : row + 1], y[row : row + 1]))
    return found, there, loss


def gathered(own: Sequence[Tensor], rank: int, world: int) -> list[Tensor]:
    """What every process has of its images, in the order of the images: the same bits for all.

    Args:
        own: of each image of this process, ``[k, 6]``, float32; its images are number rank,
            rank + world, ... of all.
        rank: this process.
        world: number of processes, who all call this.
    """
    images = torch.tensor(len(own))
    most = torch.tensor(-max((len(rows) for rows in own), default=0))
    ranks.add_up([images])
    ranks.least(most)
    whole = torch.zeros(int(images), -int(most), 6)
    counts = torch.zeros(int(images), dtype=torch.long)
    for place, rows in zip(range(rank, int(images), world), own, strict=True):
        whole[place, : len(rows)] = rows
        counts[place] = len(rows)
    ranks.add_up([whole, counts])
    return [rows[:count] for rows, count in zip(whole, counts.tolist(), strict=True)]
