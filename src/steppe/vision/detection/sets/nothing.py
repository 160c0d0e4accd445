"""Sets in which an output may say that it is nothing: DETR, YOLOS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steppe.vision.detection.boxes import cornered
from steppe.vision.detection.detections import Detections
from steppe.vision.detection.set_loss import assigned, set_loss
from steppe.vision.detection.sets import KINDS, share_right


@dataclass(frozen=True)
class SetReading:
    """For each query a box, then the classes' logits, nothing last.

    Each query tells its best class, however low its score: outputs are told apart in training, so
    that none is suppressed for another.

    Source: DETR's ``PostProcess`` (Carion et al. 2020), with which it is measured.
    """

    def loss(
        self,
        outputs: Tensor,
        targets: Tensor,
        label_smoothing: float = 0.0,
        shared: bool = False,
    ) -> Tensor:
        boxes, logits = outputs[..., :4], outputs[..., 4:]
        return set_loss(boxes, logits, targets, label_smoothing=label_smoothing, shared=shared)

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return share_right(outputs, targets, assigned)

    def detections(self, outputs: Tensor) -> list[Detections]:
        boxes = cornered(outputs[..., :4].float())
        scores, labels = outputs[..., 4:].float().softmax(-1)[..., :-1].max(-1)
        queries = outputs.shape[1]
        return [Detections.best(*own, queries) for own in zip(boxes, scores, labels, strict=True)]


@KINDS.register("nothing")
class SetDetector(nn.Module):
    """A detector of transformers that gives one tensor.

    Args:
        model: its ``pred_boxes`` and ``logits`` are joined.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.reading = SetReading()

    @staticmethod
    def claims(model: Any, num_classes: int) -> bool:
        """Its head has one logit more than there are classes."""
        head = getattr(model, "class_labels_classifier", None)
        layers = [] if head is None else [m for m in head.modules() if isinstance(m, nn.Linear)]
        return bool(layers) and layers[-1].out_features == num_classes + 1

    def forward(self, x: Tensor) -> Tensor:
        """``[n, c, h, w]`` -> ``[n, queries, 4 + classes + 1]``."""
        out = self.model(pixel_values=x)
        return torch.cat([out.pred_boxes, out.logits], -1)
