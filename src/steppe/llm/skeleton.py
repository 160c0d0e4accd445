"""A causal language model without its weights, and its decoder blocks stood in for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError


def read_config(folder: Path) -> Any:
    """A folder's config, of a causal language model that transformers itself knows.

    Raises:
        SteppeError: there is none, or it is of something else.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise SteppeError(
            "a model folder holds config.json",
            got=f"none in {folder}",
            way_out="name the folder that transformers' save_pretrained wrote, or a hub id",
        )
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also what is no UTF-8
        raise SteppeError(
            "config.json must be JSON", got=f"{path} ({error})", way_out="copy it again"
        ) from error
    kinds = described.get("architectures") or []
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if kinds and not any(kind in causal for kind in kinds):
        raise SteppeError(
            "blockwise pruning takes causal language models",
            got=f"{', '.join(kinds)} in {folder}",
            way_out="a model of a class ...ForCausalLM; for image models use steppe train",
        )
    try:
        config = AutoConfig.from_pretrained(folder)
    except (ValueError, KeyError, OSError) as error:
        raise SteppeError(
            "config.json must be of a model that transformers knows",
            got=f"{folder}: {str(error).splitlines()[0]}",
            consequence="code that comes with a model is never run",
        ) from error
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise SteppeError(
            "blockwise pruning takes causal language models",
            got=f"model type {config.model_type} in {folder}",
            way_out="a model of a class ...ForCausalLM; for image models use steppe train",
        )
    if getattr(config, "quantization_config", None) is not None:
        raise SteppeError(
            "weights to be pruned must not be quantised",
            got=f"a quantization_config in {folder}",
            way_out="prune the original, quantise afterwards",
        )
    return config


def skeleton(config: Any, dtype: torch.dtype) -> Any:
    """The model on no device: modules, names and shapes, real buffers, no weights."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for part in (model.config, model.config.get_text_config()):
        # one product per expert, each of which calibration can see
        part._experts_implementation = "eager"
    return model.eval().requires_grad_(False)


def decoder_blocks(model: Any) -> tuple[str, nn.ModuleList]:
    """The name and list of a causal language model's decoder blocks.

    It is the list of as many modules as the config has hidden layers that holds most weights.

    Raises:
        SteppeError: there is none.
    """
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", 0)
    lists = [
        (sum(p.numel() for p in module.parameters()), name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth > 0
    ]
    if not lists:
        raise SteppeError(
            "a causal language model has a list of decoder blocks",
            got=f"none of {depth} modules in {type(model).__name__}",
        )
    _, name, blocks = max(lists, key=lambda item: item[0])
    return name, blocks


def forget(module: nn.Module, recurse: bool = True) -> None:
    """Give a module's weights up; their shapes stay."""
    for each in module.modules() if recurse else [module]:
        for name, p in each._parameters.items():
            if p is not None and not p.is_meta:
                each._parameters[name] = nn.Parameter(p.detach().to("meta"), requires_grad=False)


def take_hidden(args: Any, kwargs: Any) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """A block's arguments: the hidden states, and all others."""
    if args:
        return args[0], tuple(args[1:]), kwargs
    kwargs = dict(kwargs)
    return kwargs.pop("hidden_states"), (), kwargs


def check_same(known: Any, new: Any) -> None:
    """Two windows of one length must give blocks the same arguments.

    Raises:
        SteppeError: they differ.
    """
    flat: list[tuple[Any, Any]] = [(known, new)]
    while flat:
        a, b = flat.pop()
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if a.shape == b.shape and torch.equal(a, b):
                continue
        elif isinstance(a, dict) and isinstance(b, dict):
            flat += [(a[k], b.get(k)) for k in a]
            continue
        elif isinstance(a, tuple | list) and isinstance(b, tuple | list) and len(a) == len(b):
            flat += list(zip(a, b, strict=True))
            continue
        elif type(a) is type(b) and not isinstance(a, Tensor | tuple | list):
            plain = isinstance(a, int | float | str)
            if not plain or a == b:  # caches and configs have no value to compare
                continue
        raise SteppeError(
            "the arguments of decoder blocks must not depend on the text",
            got="arguments that differ between two windows of one length",
            consequence="they would have to be kept for every window",
        )


@contextlib.contextmanager
def patched(stand_ins: dict[int, Any], blocks: nn.ModuleList) -> Iterator[None]:
    """Functions in the place of some blocks' forward."""
    for index, stand_in in stand_ins.items():
        blocks[index].forward = stand_in
    try:
        yield
    finally:
        for index in stand_ins:
            del blocks[index].forward


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and reports of loading, of which there is one per block."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
