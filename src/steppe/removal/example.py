"""A small batch for a model that was given without one."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError

_SIDE, _WAVE = 64, 4000


def example_of(model: nn.Module) -> dict[str, Tensor]:
    """A small batch for a model of transformers: tokens, images, both, or sound.

    Raises:
        SteppeError: it takes something else.
    """
    config = getattr(model, "config", None)
    kind = getattr(model, "main_input_name", "")
    takes = set(inspect.signature(model.forward).parameters) if kind else set()
    made: dict[str, Tensor] = {}
    vocabulary = _setting(config, "vocab_size", "text_config")
    if "input_ids" in takes and isinstance(vocabulary, int):
        made["input_ids"] = (torch.arange(16) * 7 % vocabulary).view(2, 8)
    if "pixel_values" in takes and (kind == "pixel_values" or _setting(config, "vision_config")):
        size = _setting(config, "image_size", "vision_config") or _SIDE
        height, width = (size, size) if isinstance(size, int) else size
        colours = _setting(config, "num_channels", "vision_config") or 3
        made["pixel_values"] = torch.zeros(2, colours, height, width)
    bins, frames = _setting(config, "num_mel_bins"), _setting(config, "max_source_positions")
    if kind == "input_features" and isinstance(bins, int) and isinstance(frames, int):
        made["input_features"] = torch.zeros(2, bins, 2 * frames)
    if kind == "input_values" and bins is None:
        made["input_values"] = torch.zeros(2, _WAVE)
    if kind not in made:
        raise SteppeError(
            "removal is verified on a batch of inputs",
            got=f"{type(model).__name__} without example_inputs",
            way_out="give one batch, or verify=False",
        )
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in takes:
        made["decoder_input_ids"] = torch.arange(8).view(2, 4)
    return made


def _setting(config: Any, name: str, inner: str = "") -> Any:
    """A value of a config, or of the part of it that describes text or images."""
    value = getattr(config, name, None)
    return getattr(getattr(config, inner, None), name, None) if value is None and inner else value
