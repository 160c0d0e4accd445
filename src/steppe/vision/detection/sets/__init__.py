"""Detectors of transformers, which give a set of boxes: one file for each kind of outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.registry import Registry
from steppe.vision.detection.targets import learned


class Kind(Protocol):
    """A kind of outputs: called with such a model it makes a detector that gives one tensor."""

    def claims(self, model: Any, num_classes: int) -> bool:
        """Whether a model of transformers gives such outputs.

        Args:
            model: an ``AutoModelForObjectDetection``.
            num_classes: kinds of objects that its head is for.
        """
        ...

    def __call__(self, model: Any) -> nn.Module: ...


KINDS: Registry[Any] = Registry("kind of outputs", "steppe.vision.detection.sets")
"""Name -> `Kind`."""


def share_right(
    outputs: Tensor,
    targets: Tensor,
    assign: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
) -> Tensor:
    """Of the queries that an object is assigned to, the share whose best class is right.

    Args:
        outputs: ``[images, n, 4 + ...]``: boxes, then logits.
        targets: ``[images, most, 6]``, see `steppe.vision.detection.targets`.
        assign: boxes, logits, objects of an image -> rows of the outputs, rows of the objects.
    """
    right, count = torch.zeros((), device=outputs.device), 0
    for own, found in zip(outputs.detach().float(), learned(targets), strict=True):
        rows, columns = assign(own[:, :4], own[:, 4:], found)
        right += (own[rows, 4:].argmax(-1) == found[columns, 4]).sum()
        count += len(found)
    return right / max(count, 1)


def one_tensor(model: Any, num_classes: int, name: str) -> nn.Module:
    """The model as a detector that gives one tensor.

    Args:
        model: an ``AutoModelForObjectDetection``.
        num_classes: kinds of objects.
        name: of the model, for messages.

    Raises:
        SteppeError: its outputs are of no known kind.
    """
    for kind in KINDS:
        if KINDS[kind].claims(model, num_classes):
            return KINDS[kind](model)  # type: ignore[no-any-return]
    raise SteppeError(
        "a detector of transformers is one whose outputs steppe can read: YOLOS, DETR, RT-DETR",
        got=f"{name}, {type(model).__name__}",
        way_out="one of these, or a function of your own (package.module:function)",
    )
