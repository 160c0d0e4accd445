"""Sets whose outputs score every class by itself, made by layer after layer: RT-DETR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.vision.detection.boxes import cornered
from steppe.vision.detection.detections import Detections
from steppe.vision.detection.focal_set_loss import focal_assigned, focal_set_loss
from steppe.vision.detection.sets import KINDS, share_right


@dataclass(frozen=True)
class FocalReading:
    """For each query a box, then a logit for each class; the last queries are the answer.

    In training there are those of the encoder and of every layer of the decoder, one set after the
    other; each has a loss. Of all pairs of a query and a class as many are told as there are
    queries, the best, however low their scores; none is suppressed for another.

    Args:
        queries: of a set.

    Source: RT-DETR's ``PostProcessor`` (Zhao et al. 2024), with which it is measured.
    """

    queries: int

    def loss(
        self,
        outputs: Tensor,
        targets: Tensor,
        label_smoothing: float = 0.0,
        shared: bool = False,
    ) -> Tensor:
        if label_smoothing:
            raise SteppeError(
                "labels are smoothed where one class is chosen",
                got=f"train.label_smoothing {label_smoothing:g}, and a detector whose classes are "
                "scored each by itself",
                way_out="train.label_smoothing 0",
            )
        losses = [
            focal_set_loss(own[..., :4], own[..., 4:], targets, shared=shared)
            for own in outputs.split(self.queries, 1)
        ]
        return torch.stack(losses).sum()

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return share_right(self._answer(outputs), targets, focal_assigned)

    def detections(self, outputs: Tensor) -> list[Detections]:
        answer = self._answer(outputs)
        boxes, scores = cornered(answer[..., :4]), answer[..., 4:].sigmoid()
        place = torch.arange(scores[0].numel(), device=scores.device)
        query, label = place // scores.shape[-1], place % scores.shape[-1]
        return [
            Detections.best(box[query], score.flatten(), label, self.queries)
            for box, score in zip(boxes, scores, strict=True)
        ]

    def _answer(self, outputs: Tensor) -> Tensor:
        return outputs[:, -self.queries :].float()


@KINDS.register("focal")
class FocalDetector(nn.Module):
    """A detector of transformers that gives one tensor; trained without denoising queries.

    Args:
        model: an RT-DETR.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        # of queries that are made of the labels, which a network is not given here
        model.config.num_denoising, model.model.denoising_class_embed = 0, None
        self.model = model
        self.reading = FocalReading(model.config.num_queries)

    @staticmethod
    def claims(model: Any, num_classes: int) -> bool:
        """An RT-DETR of one version or the other, its head made for the classes."""
        kinds = ("rt_detr", "rt_detr_v2")
        return model.config.model_type in kinds and model.config.num_labels == num_classes

    def forward(self, x: Tensor) -> Tensor:
        """``[n, c, h, w]`` -> ``[n, queries, 4 + classes]``; in training those of every set."""
        out = self.model(pixel_values=x)
        if not self.training:
            return torch.cat([out.pred_boxes, out.logits], -1)
        boxes = [out.enc_topk_bboxes, out.intermediate_reference_points.flatten(1, 2)]
        logits = [out.enc_topk_logits, out.intermediate_logits.flatten(1, 2)]
        return torch.cat([torch.cat(boxes, 1), torch.cat(logits, 1)], -1)
