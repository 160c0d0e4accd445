"""A causal language model whose linear layers hold only what is kept of their weights."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steppe.core.device import device_of
from steppe.core.errors import SteppeError, unknown
from steppe.llm.architecture import answers_in_tokens
from steppe.llm.checkpoint import Checkpoint, folder_of
from steppe.llm.compact import CompactCheckpoint
from steppe.llm.keys import REST, Keys
from steppe.llm.load import DTYPES, load_dense, not_causal, placed
from steppe.llm.skeleton import forget, quiet, read_config, skeleton
from steppe.sparse.conversion import Packable, in_place, packable, replaced
from steppe.sparse.format import check_format
from steppe.sparse.linear import is_linear
from steppe.sparse.record import remember


def load(
    name: str | Path,
    *,
    sparse: str | None = "auto",
    device: str = "cpu",
    dtype: str | torch.dtype | None = None,
    tokens: int = 1,
) -> Any:
    """A causal language model in eval mode, its pruned matrices packed.

    It is transformers' own model with `steppe.sparse.Linear` where linear layers were, so that
    ``generate``, pipelines, ``state_dict`` and ``save_pretrained`` work. Matrices are read, packed
    and given up one after the other: the dense model is never in memory. What became of each is
    in `steppe.sparse.formats_of`.

    Args:
        name: a folder with config.json and safetensors (or of ``steppe export --to compact``),
            or a hub id.
        sparse: ``bits``, ``index``, ``csr`` wherever that takes fewer bytes; ``auto``, for each
            matrix the format that is the fastest on that device, dense where none is faster
            (measured once for each kind of matrix, then remembered); ``dense`` or None, none.
        device: where it goes.
        dtype: float32, float16 or bfloat16, torch's or by name. If none is given: as stored, but on
            a CPU float32. Values that were stored in 16 bits stay so within the formats.
        tokens: how many tokens at once ``auto`` is to be fast for.

    Returns:
        The model.

    Raises:
        SteppeError: it is no causal language model, weights are missing, the device does not
            exist, or there is no such format.

    Example:
        >>> load("nowhere", sparse="bit")
        Traceback (most recent call last):
        steppe.core.errors.SteppeError: unknown format; got 'bit'. Way out: did you mean bits? \
known: auto, bits, csr, dense, index
    """
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    if dtype is not None and dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    check_format(sparse or "dense")
    folder = folder_of(str(name))
    if sparse is None or sparse == "dense":
        return load_dense(folder, device, dtype)
    if device == "auto":
        device = str(torch.accelerator.current_accelerator() or "cpu")
    place = device_of(device)
    asked = _Asked(sparse, tokens, _dtype_of(folder, place, dtype), place)
    with torch.inference_mode(False):  # else torch would copy the head's weight at each prompt
        model, whys = _packed(folder, asked)
        model = placed(model, device).eval()
    remember(model, whys)
    _give_back()
    return model


@dataclass(frozen=True)
class _Asked:
    """The format, for so many tokens, in the model's dtype and on its device."""

    format: str
    tokens: int
    dtype: torch.dtype
    device: torch.device


def _give_back() -> None:
    """What was read and packed leaves pages that glibc keeps for itself; the system gets them."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _dtype_of(folder: Path, device: torch.device, dtype: str | None) -> torch.dtype:
    if dtype is not None:
        return DTYPES[dtype]
    if device.type == "cpu":
        return torch.float32
    stored = read_config(folder).dtype
    return stored if isinstance(stored, torch.dtype) else torch.float32


def _packed(folder: Path, asked: _Asked) -> tuple[Any, dict[str, str]]:
    """The model, and for each layer the reason for its format."""
    config, dtype = read_config(folder), asked.dtype
    with quiet():
        model = skeleton(config, dtype, experts=None).requires_grad_(True)
    if not answers_in_tokens(model):
        raise not_causal(model, folder)
    compact = any(folder.glob("compact-*.safetensors"))
    checkpoint = CompactCheckpoint(folder) if compact else Checkpoint(folder)
    layers = packable(model)
    keys = Keys(model, checkpoint, list(layers))
    if hasattr(model, "_get_dtype_plan"):
        keys.dtype_plan = model._get_dtype_plan(dtype)
    keys.fill(keys.of[REST], dtype)
    shared = {*keys.ties, *keys.ties.values()}
    new: dict[str, nn.Module] = {}
    whys: dict[str, str] = {}
    for number, (name, module) in enumerate(layers.items()):
        if any(f"{name}.{own}" in shared for own, _ in module.named_parameters()):
            keys.fill(keys.of[number], dtype)
            whys[name] = "tied to another layer"
            continue
        layer, whys[name] = _layer(keys, checkpoint, number, name, module, asked)
        if layer is not None:
            new[name] = layer
    keys.tie()
    replaced(model, new)
    keys.check_filled(dict(model.named_parameters()) | dict(model.named_buffers()))
    _generation(model, folder)
    return model, whys


def _layer(
    keys: Keys, checkpoint: Checkpoint, number: int, name: str, module: Any, asked: _Asked
) -> tuple[nn.Module | None, str]:
    """What comes in a layer's place; where it stays, the layer has its weights afterwards."""
    key = keys.plain.get(f"{name}.weight") if is_linear(module) else None
    pieces, dtype = {}, asked.dtype
    if key is not None and not _kept_apart(keys, f"{name}.weight"):
        pieces["weight"] = _stored(checkpoint, key, module, dtype)
        rest = [k for k in keys.of[number] if k != key]
        if rest:
            keys.fill(rest, dtype)
    else:
        keys.fill(keys.of[number], dtype)
        keys.check_filled({f"{name}.{own}": p for own, p in module.named_parameters()})
    layer, why = in_place(module, asked.format, asked.tokens, pieces, asked.device)
    if layer is None and key is not None:
        keys.fill([key], dtype)
    elif layer is not None:
        # its bias went along; what is packed is forgotten here
        module._parameters.pop("bias", None)
        forget(module)
    return layer, why


def _kept_apart(keys: Keys, name: str) -> bool:
    """Whether transformers keeps a parameter in a dtype of its own."""
    return any(pattern in name for pattern in keys.dtype_plan)


def _stored(checkpoint: Checkpoint, key: str, module: Any, dtype: torch.dtype) -> Packable:
    """A linear layer's weight as the checkpoint has it."""
    straight = isinstance(module, nn.Linear)  # Conv1D has its weight the other way round
    if isinstance(checkpoint, CompactCheckpoint) and straight:
        stored = checkpoint.packed(key)
        if stored is not None:
            bits, values, (rows, columns) = stored
            return Packable.compact(bits, values, (rows, columns), dtype)
    weight = checkpoint.read([key])[key]
    return Packable.dense(weight if straight else weight.t().contiguous(), dtype)


def _generation(model: Any, folder: Path) -> None:
    """How the folder says that text is generated."""
    if not (folder / "generation_config.json").is_file():
        return
    from transformers import GenerationConfig

    try:
        model.generation_config = GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise SteppeError(
            "generation_config.json must be as transformers wrote it",
            got=f"{folder} ({str(error).splitlines()[0]})",
            way_out="copy it again, or remove it",
        ) from error
