"""Detectors that transformers can load, from a folder or the hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require
from steppe.vision.detection.boxes import cornered
from steppe.vision.detection.detections import Detections, Selection
from steppe.vision.detection.reading import USUAL
from steppe.vision.detection.set_loss import assigned, set_loss
from steppe.vision.detection.targets import objects


@dataclass(frozen=True)
class SetReading:
    """Outputs of a DETR or YOLOS: for each query a box, then the classes' logits, nothing last.

    Args:
        selection: which boxes are told; queries of one class may overlap as they like.
    """

    selection: Selection = USUAL

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        boxes, logits = outputs[..., :4], outputs[..., 4:]
        return set_loss(boxes, logits, targets, label_smoothing=label_smoothing)

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of the queries that an object is assigned to, the share whose class is right."""
        right, count = torch.zeros((), device=outputs.device), 0
        for own, found in zip(outputs.detach().float(), objects(targets), strict=True):
            rows, columns = assigned(own[:, :4], own[:, 4:], found)
            right += (own[rows, 4:].argmax(-1) == found[columns, 4]).sum()
            count += len(found)
        return right / max(count, 1)

    def detections(self, outputs: Tensor) -> list[Detections]:
        boxes = cornered(outputs[..., :4].float())
        probabilities = outputs[..., 4:].float().softmax(-1)[..., :-1]
        return [self.selection.of(*own) for own in zip(boxes, probabilities, strict=True)]


class SetDetector(nn.Module):
    """A detector of transformers that gives one tensor.

    Args:
        model: its ``pred_boxes`` and ``logits`` are joined.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.reading = SetReading()

    def forward(self, x: Tensor) -> Tensor:
        """``[n, c, h, w]`` -> ``[n, queries, 4 + classes + 1]``."""
        out = self.model(pixel_values=x)
        return torch.cat([out.pred_boxes, out.logits], -1)


def from_pretrained(
    name: str,
    num_classes: int,
    pretrained: bool,
    say: Callable[[str], object],
    **options: Any,
) -> nn.Module:
    """Load an ``AutoModelForObjectDetection``; safetensors only, never remote code.

    Args:
        name: a folder, or a hub id ``org/name``.
        num_classes: kinds of objects.
        pretrained: False takes the architecture alone.
        say: called with a sentence where the head starts at random.
        options: passed to ``from_pretrained`` or ``from_config``.

    Returns:
        A `SetDetector`.

    Raises:
        SteppeError: it cannot be loaded, or gives no set with a class for nothing.
    """
    transformers = require("transformers", install="'steppe[hub]'", purpose="loading a detector")
    folder = Path(name).expanduser()
    safe: dict[str, Any] = {"trust_remote_code": False}
    where: dict[str, Any] = {"local_files_only": folder.is_dir()}
    source = str(folder) if folder.is_dir() else name
    kind = transformers.AutoModelForObjectDetection
    info: dict[str, Any] = {}
    try:
        config = transformers.AutoConfig.from_pretrained(source, **safe, **where)
        theirs = config.num_labels
        config.num_labels = num_classes
        if pretrained:
            model, info = kind.from_pretrained(
                source,
                config=config,
                ignore_mismatched_sizes=theirs != num_classes,
                use_safetensors=True,
                output_loading_info=True,
                **safe,
                **where,
                **options,
            )
        else:
            model = kind.from_config(config, **({"dtype": torch.float32} | safe | options))
    except Exception as error:  # transformers raises many kinds: network, config, missing files
        text = next(iter(str(error).splitlines()), "")[:300]
        raise SteppeError(
            "a detector must be one that transformers can load from safetensors",
            got=f"{name} ({type(error).__name__}: {text})",
            way_out="check the id, the network and that it is a detector, or give a local folder",
        ) from error
    _check_head(model, name, num_classes)
    random = [*info.get("missing_keys", ()), *(key for key, *_ in info.get("mismatched_keys", ()))]
    if random:
        say(f"{name}: its head starts at random ({', '.join(sorted(random)[:4])})")
    return SetDetector(model)


def _check_head(model: nn.Module, name: str, num_classes: int) -> None:
    """Its outputs are boxes and logits of which the last is that of nothing.

    Raises:
        SteppeError: they are something else.
    """
    head = getattr(model, "class_labels_classifier", None)
    last = None
    if head is not None:
        layers = [m for m in head.modules() if isinstance(m, nn.Linear)]
        last = layers[-1].out_features if layers else None
    if last != num_classes + 1:
        raise SteppeError(
            "a detector of transformers gives boxes with a class for nothing, as YOLOS and DETR do",
            got=f"{name}, {type(model).__name__}",
            way_out="YOLOS, or a function of your own (package.module:function)",
        )
