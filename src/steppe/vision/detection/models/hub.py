"""Detectors that transformers can load, from a folder or the hub."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.hub_names import silent_retries
from steppe.core.optional_import import require
from steppe.vision.detection.sets import one_tensor


def from_pretrained(
    name: str,
    num_classes: int,
    in_shape: tuple[int, int, int],
    pretrained: bool,
    say: Callable[[str], object],
    **options: Any,
) -> nn.Module:
    """Load an ``AutoModelForObjectDetection``; safetensors only, never remote code.

    Args:
        name: a folder, or a hub id ``org/name``.
        num_classes: kinds of objects.
        in_shape: channels, height, width of an image.
        pretrained: False takes the architecture alone.
        say: called with a sentence where the head starts at random.
        options: passed to ``from_pretrained`` or ``from_config``.

    Returns:
        A module that gives one tensor, see `steppe.vision.detection.sets`.

    Raises:
        SteppeError: it cannot be loaded, its outputs are of no known kind, or it takes no
            images of that size.
    """
    transformers = require("transformers", install="'steppe[hub]'", purpose="loading a detector")
    folder = Path(name).expanduser()
    safe: dict[str, Any] = {"trust_remote_code": False}
    where: dict[str, Any] = {"local_files_only": folder.is_dir()}
    source = str(folder) if folder.is_dir() else name
    kind = transformers.AutoModelForObjectDetection
    info: dict[str, Any] = {}
    try:
        with silent_retries():
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
    detector = one_tensor(model, num_classes, name)
    _check_size(detector, in_shape, name)
    random = [*info.get("missing_keys", ()), *(key for key, *_ in info.get("mismatched_keys", ()))]
    if random:
        say(f"{name}: its head starts at random ({', '.join(sorted(random)[:4])})")
    return detector


@torch.no_grad()
def _check_size(detector: nn.Module, in_shape: tuple[int, int, int], name: str) -> None:
    """Whether it takes images of that size; as a rule nothing is computed.

    Raises:
        SteppeError: it does not.
    """
    detector.eval()
    try:
        copy.deepcopy(detector).to("meta")(torch.zeros(1, *in_shape, device="meta"))
    except Exception:  # it may also be one that cannot run without values
        try:
            detector(torch.zeros(1, *in_shape))
        except (RuntimeError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise SteppeError(
                "a detector must take the images",
                got=f"{in_shape[2]} x {in_shape[1]} pixels and {name} ({why})",
                way_out="--set data.size=..., for many a multiple of 32",
            ) from error
    detector.train()
