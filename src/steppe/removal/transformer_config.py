"""The sizes that transformers write into their modules and their config, after removal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.removal.mixtures import COUNTS, Mixture, mixtures_of
from steppe.removal.transformer_patterns import HEADS, KEY_HEADS, Sublayer, sublayers_of, width

NEURONS = ("intermediate_size", "ffn_dim", "n_inner")
"""How configs call the number of neurons."""
EXPERT_WIDTHS = ("moe_intermediate_size", "intermediate_size")
SHARED_WIDTHS = ("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size")
"""What a config calls the neurons of an expert, and of those that all tokens go to."""


def update_attributes(sublayers: Iterable[Sublayer]) -> None:
    """Set the modules' attributes for numbers of heads and neurons to what the weights have now.

    Args:
        sublayers: as they were recognised before the weights were cut.
    """
    for sublayer in sublayers:
        owner = sublayer.owner
        if sublayer.kind == "channel":
            neurons = width(sublayer.consumers[0][1], 1)
            _set(owner, ("intermediate_size", "intermediate_dim"), neurons)
            continue
        heads_width = width(sublayer.consumers[0][1], 1)
        heads = heads_width // sublayer.head_size
        _set(owner, HEADS, heads)
        _set(owner, KEY_HEADS, heads // sublayer.queries_per_key)
        _set(owner, ("all_head_size", "split_size", "inner_dim"), heads_width)


def _set(module: Any, names: Sequence[str], value: int) -> None:
    for name in names:
        if isinstance(getattr(module, name, None), int):
            setattr(module, name, value)


def update_config(model: nn.Module) -> str:
    """Write the new sizes into ``model.config`` where all blocks have the same sizes.

    Args:
        model: of transformers, cut; others are left alone.

    Returns:
        "" when a model built from the config has the shapes of this one, so that plain
        ``from_pretrained`` loads it; else why not, and the config is as it was.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        return "it is no model of transformers"
    sublayers = list(sublayers_of(model))
    mixtures = list(mixtures_of(model))
    with_experts = {id(m) for mixture in mixtures for m in mixture.owner.modules()}
    attentions = [s for s in sublayers if s.kind == "head"]
    mlps = {s.units for s in sublayers if s.kind == "channel" and id(s.owner) not in with_experts}
    shared = {s.units for s in sublayers if s.kind == "channel" and id(s.owner) in with_experts}
    sizes = {
        "num_attention_heads": {s.units * s.queries_per_key for s in attentions},
        "num_key_value_heads": {s.units for s in attentions},
        "head_dim": {s.head_size for s in attentions},
        _neurons(config): mlps,
    }
    if any(len(different) > 1 for different in sizes.values()):
        return "its blocks differ in heads or neurons"
    for name, of_mixtures in _mixture_sizes(config, mixtures, shared).items():
        sizes[name] = sizes.get(name, set()) | of_mixtures
    if any(len(different) > 1 for different in sizes.values()):
        return "its mixtures differ in experts or in their neurons"
    new = {name: different.pop() for name, different in sizes.items() if different}
    updated = deepcopy(config)
    try:
        _write(updated, new)
    except Exception as error:  # e.g. it has one number for each stage
        return f"its config refuses: {str(error).strip().splitlines()[-1][:200]}"
    reason = _mismatch(model, updated)
    if not reason:
        _write(config, new)
    return reason


def _neurons(config: Any) -> str:
    return next((name for name in NEURONS if hasattr(config, name)), NEURONS[0])


def _mixture_sizes(config: Any, mixtures: list[Mixture], shared: set[int]) -> dict[str, set[int]]:
    """What a config says of mixtures -> the values that it has in them.

    Args:
        config: of transformers.
        mixtures: of the model.
        shared: neurons of what lies beside the experts, which all tokens go to. Where the config
            has no name for them, they are a multiple of those of an expert.
    """
    own = [name for name in EXPERT_WIDTHS if isinstance(getattr(config, name, None), int)]
    widths = {mixture.width for mixture in mixtures if mixture.neurons() is not None}
    sizes = dict.fromkeys(own[:1], widths) | dict.fromkeys(SHARED_WIDTHS, shared)
    sizes |= {name: {mixture.count for mixture in mixtures} for name in COUNTS}
    return {n: set(v) for n, v in sizes.items() if isinstance(getattr(config, n, None), int)}


def _write(config: Any, sizes: dict[str, int]) -> None:
    for name, value in sizes.items():
        old = getattr(config, name, None)
        # what a config need not say
        usual = {"head_dim": sizes.get("num_attention_heads", 0) * value, "n_inner": value / 4}
        plain = name in usual and usual[name] == config.hidden_size
        if name == "num_key_value_heads" and old is None:
            continue
        if old != value and not (old is None and plain):
            setattr(config, name, value)


def _mismatch(model: nn.Module, config: Any) -> str:
    """Why a model built from a config would not take these weights; "" if it would."""
    try:
        with torch.device("meta"):
            fresh: nn.Module = type(model)(type(config).from_dict(config.to_dict()))
    except Exception as error:  # configurations refuse in many ways
        return f"its config refuses: {str(error).strip().splitlines()[-1][:200]}"
    shapes = {name: t.shape for name, t in model.state_dict().items()}
    for name, tensor in fresh.state_dict().items():
        if shapes.get(name) != tensor.shape:
            return f"its config cannot say that {name} is {tuple(shapes.get(name, ()))}"
    return ""


def require_plain(model: nn.Module) -> None:
    """Check that plain ``from_pretrained`` will load what ``save_pretrained`` writes.

    Raises:
        SteppeError: it will not, e.g. since the heads do not divide the width evenly.
    """
    reason = update_config(model)
    if reason:
        raise SteppeError(
            "a model is loadable by plain from_pretrained when its config says all its shapes",
            got=f"{type(model).__name__}: {reason}",
            way_out="remove the same number of heads and neurons in every block, "
            "or save with save_removed and load with load_removed",
        )
