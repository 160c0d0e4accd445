"""Biases for layers that have none, where a config has a flag for them: they begin at zero."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.neurons import beside
from steppe.core.serialization import write_tensors, write_text
from steppe.llm.checkpoint import INDEX
from steppe.llm.model import StreamedModel
from steppe.llm.side_files import copy_side_files
from steppe.llm.skeleton import config_of, skeleton
from steppe.llm.structured.cut import CONFIG

BIASES = "biases.safetensors"


def bias_flags(model: StreamedModel, layers: Sequence[Layer]) -> dict[str, Any]:
    """What a model's config must say for all these layers to have biases; nothing if they have.

    Args:
        model: with or without them.
        layers: of the model.

    Raises:
        SteppeError: no config of its family says it.
    """
    lacking = {x.name for x in layers} - _biased(model.model)
    stored = json.loads((model.folder / CONFIG).read_text(encoding="utf-8"))
    flags: dict[str, Any] = {}
    for name, value in sorted(vars(model.config.get_text_config()).items()):
        if lacking and value is False and "bias" in name.split("_"):
            changed = flags | _with_flag(stored | flags, name)
            gained = lacking & _biased(skeleton(config_of(stored | changed), model.dtype))
            if gained:
                flags, lacking = changed, lacking - gained
    if lacking:
        kind = type(model.model).__name__
        raise SteppeError(
            "a shift of means is a bias behind neurons or heads, which the config must know",
            got=f"{kind}, whose config has none for {sorted(lacking)[0]}",
            consequence="no plain from_pretrained would load it",
            way_out="method slim, which changes the weights instead",
        )
    return flags


def _biased(model: Any) -> set[str]:
    """Weights of a model that have a bias beside them."""
    names = {n for n, _ in model.named_parameters()}
    return {n for n in names if n.endswith(".weight") and beside(n, "bias") in names}


def _with_flag(stored: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What changes in a ``config.json`` when a flag of the text's config is set."""
    config = config_of(dict(stored))
    before = config.to_dict()
    setattr(config.get_text_config(), name, True)
    return {k: v for k, v in config.to_dict().items() if before.get(k) != v}


def with_biases(model: StreamedModel, flags: Mapping[str, Any], out: Path) -> Path:
    """A folder with the same model and zeros for the biases that flags of the config bring.

    Its weights are links to those of the model.

    Args:
        model: without them.
        flags: see `bias_flags`.
        out: the folder; one that is whole is taken as it is.

    Returns:
        The folder.
    """
    if (out / INDEX).is_file():
        return out
    out.mkdir(parents=True, exist_ok=True)
    stored = json.loads((model.folder / CONFIG).read_text(encoding="utf-8")) | dict(flags)
    where: dict[str, str] = {}
    for key, path in model.checkpoint.files.items():
        # a model.safetensors would be read instead of the index
        where[key] = link = f"dense-{path.name}"
        if not (out / link).is_symlink():
            os.symlink(path.resolve(), out / link)
    own = {n for n, _ in model.model.named_parameters()}
    zeros: dict[str, Tensor] = {}
    for name, bias in skeleton(config_of(stored), model.dtype).named_parameters():
        if name not in own:
            weight = f"{name.removesuffix('bias')}weight"
            (key,) = model.stored_keys(weight)
            zeros[beside(key, "bias")] = torch.zeros(bias.shape, dtype=model.stored_dtype(weight))
    write_tensors(out / BIASES, zeros, {"format": "pt"})
    copy_side_files(model.folder, out)
    write_text(out / CONFIG, json.dumps(stored, indent=2) + "\n")
    index = {"metadata": {}, "weight_map": where | dict.fromkeys(zeros, BIASES)}
    write_text(out / INDEX, json.dumps(index, indent=2) + "\n")
    return out
