"""A causal language model without its weights, and its decoder blocks stood in for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.llm.architecture import class_of


def read_config(folder: Path) -> Any:
    """A folder's config, of a model that transformers itself knows and that text runs.

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

    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also what is no UTF-8
        raise SteppeError(
            "config.json must be JSON", got=f"{path} ({error})", way_out="copy it again"
        ) from error
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # each model's config checks its values in its own way
        raise SteppeError(
            "config.json must be of a model that transformers knows",
            got=f"{folder}: {' '.join(str(error).split())[:300]}",
            consequence="code that comes with a model is never run",
        ) from error
    class_of(config, config.architectures or [])
    if getattr(config, "quantization_config", None) is not None:
        raise SteppeError(
            "weights to be pruned must not be quantised",
            got=f"a quantization_config in {folder}",
            way_out="prune the original, quantise afterwards",
        )
    return config


def config_of(stored: dict[str, Any]) -> Any:
    """The config that transformers makes of what a ``config.json`` holds."""
    from transformers import AutoConfig

    plain = {key: value for key, value in stored.items() if key != "model_type"}
    return AutoConfig.for_model(stored["model_type"], **plain)


def skeleton(config: Any, dtype: torch.dtype, experts: str | None = "eager") -> Any:
    """The model on no device: modules, names and shapes, real buffers, no weights.

    Args:
        config: of transformers.
        dtype: of the parameters.
        experts: how a mixture computes its experts; ``eager`` is one product per expert, each of
            which calibration can see, None leaves it to transformers.
    """
    from accelerate import init_empty_weights

    kind = class_of(config, config.architectures or [])
    # only the automatic classes have a public constructor that takes a dtype
    build = kind.from_config if hasattr(kind, "from_config") else kind._from_config
    with init_empty_weights(include_buffers=False):
        model = build(config, dtype=dtype)
    for part in (model.config, model.config.get_text_config()) if experts else ():
        part._experts_implementation = experts
    return model.eval().requires_grad_(False)


def forget(module: nn.Module, recurse: bool = True) -> None:
    """Give a module's weights up; their shapes stay."""
    for each in module.modules() if recurse else [module]:
        for name, p in each._parameters.items():
            if p is not None and not p.is_meta:
                each._parameters[name] = nn.Parameter(p.detach().to("meta"), requires_grad=False)


@contextlib.contextmanager
def patched(stand_ins: dict[int, Any], blocks: nn.ModuleList) -> Iterator[None]:
    """Functions in the place of some blocks' forward, or of what stood there in its place."""
    before = {index: vars(blocks[index]).get("forward") for index in stand_ins}
    for index, stand_in in stand_ins.items():
        blocks[index].forward = stand_in
    try:
        yield
    finally:
        for index, earlier in before.items():
            if earlier is None:
                del blocks[index].forward
            else:
                blocks[index].forward = earlier


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
