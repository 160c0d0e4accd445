"""The residual stream of a language model: where its dimensions lie in the model's tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group, Slice
from steppe.core.layer import inputs_first
from steppe.llm.architecture import block_names
from steppe.llm.skeleton import config_of, skeleton
from steppe.llm.structured.family import others
from steppe.removal.mixtures import mixtures_of
from steppe.removal.transformer_patterns import sublayers_of

SCALE = "embed_scale"
"""What embeddings call a buffer with the root of the hidden size, by which they multiply."""
_SAID_BY = ("scalar_embed_scale",)
_NEAR = 64


@dataclass(frozen=True, eq=False, kw_only=True)
class ResidualStream:
    """The dimensions of a residual stream, each of which goes everywhere or nowhere.

    Args:
        group: where they lie: rows of what writes into the stream (embeddings, output and down
            projections, biases), scales and shifts of its norms, columns of what reads it.
        norms: names of its norms, those of the blocks in order, the last one behind them.
        scales: name of an embedding -> the factor by which it multiplies now, and the one by
            which it will when the config says the new width.
        config: what the config says then.
    """

    group: Group
    norms: tuple[str, ...]
    scales: Mapping[str, tuple[float, float]]
    config: Mapping[str, int]

    def names(self, role: str) -> list[str]:
        """Tensors that lie in it in some role, see `Slice`."""
        return [s.name for s in self.group.slices if s.role == role]

    @property
    def last_norm(self) -> str:
        """The norm between the last block and the head."""
        return self.norms[-1]


class _Unknown(Exception):
    """Why a config cannot say another width."""


def residual_stream(stored: Mapping[str, Any], width: int, dtype: torch.dtype) -> ResidualStream:
    """Where the residual stream lies, found by what changes when the config says another width.

    Two models are compared that have no weights. The width of heads is said explicitly, and all
    that changes must be the width itself: one dimension of a matrix, a norm, a bias.

    Args:
        stored: what ``config.json`` holds, as the new model will be written.
        width: dimensions of the new stream.
        dtype: of the weights.

    Raises:
        SteppeError: no config says that width and nothing else.
    """
    try:
        return _found(dict(stored), width, dtype)
    except _Unknown as reason:
        ways = [f"--family {name}" for name in others(dict(stored))]
        ways += _other_widths(dict(stored), width)
        raise SteppeError(
            "dimensions are removed from models whose config says the hidden size by itself",
            got=f"{stored['model_type']} with a hidden size of {width}: {reason}",
            way_out=", or ".join([*ways, "--structure neurons"]),
        ) from None


def _found(stored: dict[str, Any], width: int, dtype: torch.dtype) -> ResidualStream:
    whole = skeleton(config_of(stored), dtype)
    text = whole.config.get_text_config()
    if text is not whole.config:
        raise _Unknown("its text's config is a part of another")
    old = int(text.hidden_size)
    said = _said(whole, width)
    try:
        new = skeleton(config_of(stored | said), dtype)
    except Exception as error:  # configurations refuse in many ways
        raise _Unknown(_refusal(error)) from None
    scales = _compared(whole, new, old, width)
    named = dict(whole.named_parameters(remove_duplicate=False))
    shapes = {n: p.shape for n, p in new.named_parameters(remove_duplicate=False)}
    if named.keys() != shapes.keys():
        raise _Unknown(f"{min(named.keys() ^ shapes.keys())} would come or go")
    role_of = _Roles(whole)
    index = torch.arange(old).view(-1, 1)
    slices: list[Slice] = []
    for name, p in named.items():
        changed = [d for d, (a, b) in enumerate(zip(p.shape, shapes[name], strict=True)) if a != b]
        if any((p.shape[d], shapes[name][d]) != (old, width) for d in changed) or changed[1:]:
            raise _Unknown(f"{name} would be {tuple(shapes[name])} instead of {tuple(p.shape)}")
        slices += [Slice(name, d, index, role_of(name, p, d)) for d in changed]
    table = next(n for n, p in named.items() if p is whole.get_input_embeddings().weight)
    slices.sort(key=lambda s: s.name != table)
    if not slices or slices[0].name != table:
        raise _Unknown("its embedding has another width")
    norms = list(dict.fromkeys(s.name.rpartition(".")[0] for s in slices if s.role == "norm"))
    outside = [n for n in norms if role_of.block_of(n) is None]
    if len(outside) != 1:
        raise _Unknown(f"it has {len(outside)} norms outside of its blocks")
    inside = [n for n in norms if n not in outside]
    return ResidualStream(
        group=Group(table, tuple(slices), 1, "dimension"),
        norms=(*inside, *outside),
        scales=scales,
        config=said,
    )


def _said(whole: Any, width: int) -> dict[str, int]:
    """The new width in the config's own words, and the width of a head as it is."""
    aliases: dict[str, str] = getattr(type(whole.config), "attribute_map", {})
    heads = {s.head_size for s in sublayers_of(whole) if s.kind == "head"}
    if len(heads) > 1:
        raise _Unknown("its heads are of several widths")
    said = {"hidden_size": width} | ({"head_dim": heads.pop()} if heads else {})
    return {aliases.get(name, name): value for name, value in said.items()}


def _refusal(error: Exception) -> str:
    return f"its config refuses: {str(error).strip().splitlines()[-1].strip()[:200]}"


def _compared(whole: Any, new: Any, old: int, width: int) -> dict[str, tuple[float, float]]:
    """Whether modules compute alike but for the width; factors of embeddings that change."""
    scales: dict[str, tuple[float, float]] = {}
    others: dict[str, Any] = dict(new.named_modules())
    for name, module in whole.named_modules():
        if name not in others or type(others[name]) is not type(module):
            raise _Unknown(f"{name} would be another module")
        other = others[name]
        numbers, own = dict(_numbers(module)), dict(_numbers(other))
        for key in sorted(numbers.keys() | own.keys()):
            pair = numbers.get(key), own.get(key)
            known = pair in ((old, width), ((old,), (width,))) or key in _SAID_BY
            if pair[0] != pair[1] and not known:
                raise _Unknown(f"{name}.{key} would be {pair[1]} instead of {pair[0]}")
        for key, buffer in module._buffers.items():
            second = other._buffers.get(key)
            if buffer is None and second is None:
                continue
            if buffer is None or second is None or buffer.shape != second.shape:
                raise _Unknown(f"{name}.{key} would be another")
            if not torch.equal(buffer, second):
                if key != SCALE or not isinstance(module, nn.Embedding):
                    raise _Unknown(f"{name}.{key} would be another")
                scales[name] = float(buffer), float(second)
    return scales


def _numbers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for key, value in vars(module).items():
        if isinstance(value, int | float | str | tuple | None) and not key.startswith("_"):
            yield key, value


class _Roles:
    """What a tensor of a model does with the residual stream, by the module that it is of."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._blocks = block_names(model)
        self._mixtures = list(mixtures_of(model))
        head = model.get_output_embeddings()
        self._head = None if head is None else head.weight

    def block_of(self, name: str) -> str | None:
        """The block that something lies in."""
        return next((b for b in self._blocks if name.startswith(f"{b}.")), None)

    def __call__(self, name: str, tensor: Tensor, dim: int) -> str:
        place, _, leaf = name.rpartition(".")
        module = self._model.get_submodule(place)
        block = self.block_of(name)
        if tensor is self._head:
            return "input"
        if isinstance(module, nn.Embedding):
            return "output"
        if "Norm" in type(module).__name__ and leaf in ("weight", "bias"):
            if block is not None and place.rpartition(".")[0] != block:
                raise _Unknown(f"{place} is a norm of something else")
            return "norm"
        if block is not None and (isinstance(module, nn.Linear) or inputs_first(module)):
            outputs = 1 if inputs_first(module) else 0
            return "bias" if leaf == "bias" else "output" if dim == outputs else "input"
        for mixture in self._mixtures:
            if name == mixture.name:
                return "input"
            if place == mixture.inside and name in mixture.tensors:
                if leaf.endswith("_bias"):
                    return "bias"
                return "output" if leaf == "down_proj" else "input"
        raise _Unknown(f"{name} is of no kind that is known")


def _other_widths(stored: dict[str, Any], width: int) -> list[str]:
    """The sparsity for the nearest width that the config takes, if this one is what it refuses."""
    if not refuses_width(stored, width):
        return []
    old = int(config_of(stored).get_text_config().hidden_size)
    near = sorted(
        range(max(width - _NEAR, 1), min(width + _NEAR, old)), key=lambda n: abs(n - width)
    )
    taken = next((n for n in near if not refuses_width(stored, n)), None)
    return [] if taken is None else [f"--sparsity {1 - taken / old:g}"]


def refuses_width(stored: Mapping[str, Any], width: int) -> bool:
    """Whether a config by itself is against a width, before any model is made of it.

    Args:
        stored: what ``config.json`` holds, as the new model will be written.
        width: dimensions of the new stream.
    """
    whole = config_of(dict(stored))
    aliases: dict[str, str] = getattr(type(whole), "attribute_map", {})
    try:
        config_of(dict(stored) | {aliases.get("hidden_size", "hidden_size"): width})
    except Exception:  # configurations refuse in many ways
        return True
    return False
