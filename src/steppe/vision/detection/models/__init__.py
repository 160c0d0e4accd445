"""Object detectors by name: built in, a user's function, a local folder, or the hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from steppe.core.errors import SteppeError, unknown
from steppe.core.hub_names import absent, is_hub_id
from steppe.core.notes import note
from steppe.core.registry import Registry
from steppe.vision.detection.reading import reading_of
from steppe.vision.models.registry import from_registry
from steppe.vision.models.user import from_function

Builder = Callable[..., nn.Module]
"""``builder(num_classes, in_shape, **options) -> nn.Module`` with a ``reading``."""

DETECTORS: Registry[Builder] = Registry("detector", "steppe.vision.detection.models")

__all__ = ["DETECTORS", "Builder", "build"]


def build(
    name: str,
    num_classes: int,
    in_shape: tuple[int, int, int],
    *,
    pretrained: bool | None = None,
    say: Callable[[str], object] = note,
    **options: Any,
) -> nn.Module:
    """Build a detector.

    ``name`` is, in this order: a registered network, ``package.module:function`` of the user's, a
    local folder in the transformers layout, or a hub id ``org/name``.

    Args:
        name: what to build.
        num_classes: kinds of objects, at least 1; the background is none of them.
        in_shape: channels, height, width of an image.
        pretrained: False starts a hub's or folder's architecture at random.
        say: called with a sentence where a pretrained network gets a head at random.
        options: further arguments of the builder.

    Returns:
        The module: images ``[n, c, h, w]``, float -> ``[n, boxes, 4 + ...]``, which its
        ``reading`` understands (`steppe.vision.detection.reading`).

    Raises:
        SteppeError: no such detector, an option that it does not have, images that it cannot take.

    Example:
        >>> model = build("ssd_small", 3, (3, 128, 128))
        >>> import torch
        >>> model(torch.zeros(1, 3, 128, 128)).shape[-1]  # 4 offsets, the background, 3 classes
        8
    """
    if num_classes < 1:
        raise SteppeError("a detector finds at least one class", got=f"num_classes={num_classes}")
    if name in DETECTORS:
        model = from_registry(
            DETECTORS, name, num_classes, in_shape, options, pretrained=pretrained
        )
    elif re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", name):
        asked = {} if pretrained is None else {"pretrained": pretrained}
        model = from_function(name, num_classes, in_shape, **asked, **options)
    elif Path(name).expanduser().is_dir() or is_hub_id(name):
        from steppe.vision.detection.models.hub import from_pretrained

        model = from_pretrained(
            name, num_classes, in_shape, pretrained is not False, say, **options
        )
    elif "/" in name or name.startswith(("~", ".")):
        raise absent(
            name,
            "a detector's path must be a folder that exists",
            "a folder with config.json and model.safetensors, or a registered detector's name",
        )
    else:
        raise unknown("detector", name, DETECTORS)
    reading_of(model)
    return model
