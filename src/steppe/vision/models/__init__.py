"""Image classifiers by name: built in, a user's function, a local folder, or the hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from steppe.core.errors import OtherTask, SteppeError, unknown
from steppe.core.hub_names import absent, is_hub_id
from steppe.core.notes import note
from steppe.core.registry import Registry

Builder = Callable[..., nn.Module]
"""``builder(num_classes, in_shape, **options) -> nn.Module``; ``in_shape`` is (c, h, w)."""

MODELS: Registry[Builder] = Registry("model", "steppe.vision.models")

# Below MODELS on purpose: these modules may be imported while the families register.
from steppe.vision.models.hub import from_pretrained  # noqa: E402
from steppe.vision.models.initial import Init, initialise  # noqa: E402
from steppe.vision.models.outputs import logits  # noqa: E402
from steppe.vision.models.registry import from_registry  # noqa: E402
from steppe.vision.models.user import from_function  # noqa: E402
from steppe.vision.models.weights import load_weights, start_from  # noqa: E402

__all__ = [
    "MODELS",
    "Builder",
    "build",
    "from_function",
    "from_pretrained",
    "load_weights",
    "logits",
    "start_from",
]


def build(
    name: str,
    num_classes: int,
    in_shape: tuple[int, int, int] = (3, 32, 32),
    *,
    pretrained: bool | None = None,
    say: Callable[[str], object] = note,
    **options: Any,
) -> nn.Module:
    """Build an image classifier.

    ``name`` is, in this order: a registered model, ``package.module:function`` of the user's, a
    local folder in the transformers layout, or a hub id ``org/name`` (the only case that may use
    the network). Weights are random (by torch's generator) for the first, pretrained for the
    last two unless ``pretrained`` is False; :func:`load_weights` fills a built model.

    Args:
        name: what to build.
        num_classes: number of classes, at least 2.
        in_shape: channels, height, width of one image.
        pretrained: False starts a hub's or folder's architecture at random; None is what the
            name means. A function of the user's is given it.
        say: called with a sentence where a pretrained model gets a head at random.
        options: further arguments of the builder, e.g. ``width=2``. Every registered model, and
            every random start of the hub's, has ``init``: ``fan_in`` or ``fan_out``, see
            `steppe.vision.models.initial`.

    Returns:
        The module: input [n, c, h, w], float; output [n, num_classes], or an object that carries
        it as ``.logits`` (see :func:`logits`).

    Raises:
        SteppeError: no such model, an option the builder does not have, an impossible shape.

    Example:
        >>> model = build("resnet20", num_classes=10, width=2)
        >>> sum(p.numel() for p in model.parameters())
        1073962
    """
    if num_classes < 2:
        raise SteppeError("a classifier needs at least 2 classes", got=f"num_classes={num_classes}")
    if len(in_shape) != 3 or min(in_shape) < 1:
        raise SteppeError("in_shape must be (channels, height, width)", got=in_shape)
    if name in MODELS:
        init = options.pop("init", None)
        made = from_registry(
            MODELS, name, num_classes, in_shape, options, pretrained=pretrained, others=["init"]
        )
        return _started(made, init)
    if re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", name):
        asked = {} if pretrained is None else {"pretrained": pretrained}
        return from_function(name, num_classes, in_shape, **asked, **options)
    if Path(name).expanduser().is_dir() or is_hub_id(name):
        init = options.pop("init", None)
        if init is not None and pretrained is not False:
            raise SteppeError(
                "init draws the weights of a random start",
                got=f"init {init} for {name}, which is pretrained",
                way_out="pretrained: false, or leave init out",
            )
        model = from_pretrained(name, num_classes, pretrained is not False, say, **options)
        return _started(model, init)
    if "/" in name or name.startswith(("~", ".")):
        raise absent(
            name,
            "a model's path must be a folder that exists",
            "a folder with config.json and model.safetensors, or a registered model's name",
        )
    from steppe.vision.detection.models import DETECTORS

    if name in DETECTORS:
        raise OtherTask(
            "training of task image takes a classifier",
            got=f"{name}, a detector",
            task="detection",
        )
    raise unknown("model", name, MODELS)


def _started(model: nn.Module, init: Init | None) -> nn.Module:
    if init is not None:
        initialise(model, init)
    return model
