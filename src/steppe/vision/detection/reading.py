"""What the outputs of a detector mean: their loss, and the boxes that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.vision.detection.anchors import Anchors
from steppe.vision.detection.boxes import decode
from steppe.vision.detection.detections import Detections, Selection
from steppe.vision.detection.matching import BACKGROUND
from steppe.vision.detection.ssd_loss import matched, ssd_loss

USUAL = Selection()


@runtime_checkable
class Reading(Protocol):
    """A detector's ``reading``: it answers with one tensor ``[images, n, 4 + ...]``."""

    def loss(
        self,
        outputs: Tensor,
        targets: Tensor,
        label_smoothing: float = 0.0,
        shared: bool = False,
    ) -> Tensor:
        """A scalar; targets are those of `steppe.vision.detection.targets`.

        Where a batch is shared each of several processes has a part of it, and all call this: the
        mean of what they get is the loss of the whole.
        """
        ...

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A share in [0, 1] that grows as the network learns; for couplings that watch it."""
        ...

    def detections(self, outputs: Tensor) -> list[Detections]:
        """The objects found in each image."""
        ...


@dataclass(frozen=True)
class SSDReading:
    """Outputs of an SSD: for each anchor four offsets, then the classes' logits.

    Args:
        anchors: of the network.
        selection: which boxes are told.
    """

    anchors: Anchors
    selection: Selection = USUAL

    def loss(
        self,
        outputs: Tensor,
        targets: Tensor,
        label_smoothing: float = 0.0,
        shared: bool = False,
    ) -> Tensor:
        anchors = self._anchors(outputs)
        offsets, logits = outputs[..., :4], outputs[..., 4:]
        return ssd_loss(
            offsets, logits, targets, anchors, label_smoothing=label_smoothing, shared=shared
        )

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of the anchors that stand for an object, the share whose class is right."""
        classes, _ = matched(targets, self._anchors(outputs))
        positive = classes != BACKGROUND
        right = outputs.detach()[..., 4:].argmax(-1)[positive] == classes[positive]
        return right.float().sum() / positive.sum().clamp_min(1)

    def detections(self, outputs: Tensor) -> list[Detections]:
        boxes = decode(outputs[..., :4].float(), self._anchors(outputs))
        probabilities = outputs[..., 4:].float().softmax(-1)[..., 1:]
        return [self.selection.of(*own) for own in zip(boxes, probabilities, strict=True)]

    def _anchors(self, outputs: Tensor) -> Tensor:
        anchors = self.anchors.boxes(outputs.device)
        assert outputs.shape[1] == len(anchors), (tuple(outputs.shape), len(anchors))
        return anchors


def reading_of(model: nn.Module) -> Reading:
    """What the outputs of a detector mean.

    Raises:
        SteppeError: the network does not say.

    Example:
        >>> reading_of(nn.Linear(1, 1))
        Traceback (most recent call last):
        steppe.core.errors.SteppeError: a detector has a reading: loss, accuracy, detections; ...
    """
    reading = getattr(model, "reading", None)
    if not isinstance(reading, Reading):
        raise SteppeError(
            "a detector has a reading: loss, accuracy, detections",
            got=f"{type(model).__name__} without one",
            way_out="model.reading = SSDReading(anchors) of steppe.vision.detection.reading, and "
            "a forward that gives one tensor [images, anchors, 4 + 1 + classes]",
        )
    return reading


def outputs_of(model: nn.Module, images: Tensor) -> Tensor:
    """The outputs of a detector, which are one tensor.

    Raises:
        SteppeError: they are not.
    """
    outputs = model(images)
    if not isinstance(outputs, Tensor):
        raise SteppeError(
            "a detector gives one tensor, [images, boxes, 4 + ...]",
            got=type(outputs).__name__,
            way_out="join offsets and logits: torch.cat([offsets, logits], -1)",
        )
    return outputs


@torch.no_grad()
def detect(model: nn.Module, images: Tensor) -> list[Detections]:
    """What a detector finds in images, on the host.

    Args:
        model: in eval mode.
        images: ``[n, c, h, w]``, normalised.
    """
    return [own.cpu() for own in reading_of(model).detections(outputs_of(model, images))]
