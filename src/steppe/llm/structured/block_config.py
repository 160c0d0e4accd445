"""What a config of transformers says of single blocks, once some of them are gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Rule = Callable[[Any, int, Sequence[int]], None]
RULES: list[Rule] = []
"""Each mends a config, in place: (config, blocks before, numbers of those that stay, ascending).
Another way to say it is one more function."""

_NUMBERS = ("mlp_only_layers", "moe_layers", "full_attn_idxs", "cross_attention_layers")
_AT_THE_FRONT = (
    "first_k_dense_replace",
    "num_dense_layers",
    "max_window_layers",
    "moe_layer_start_index",
)
_OVERRULED = ("sliding_window_pattern", "_sliding_window_pattern")


def rule(function: Rule) -> Rule:
    """Register a rule."""
    RULES.append(function)
    return function


def shorten(config: Any, before: int, gone: set[int]) -> None:
    """Let a config say that some blocks are gone, in place.

    Args:
        config: of the part of the model that the blocks are in.
        before: how many blocks there were.
        gone: numbers of those that go.
    """
    stay = [i for i in range(before) if i not in gone]
    for mend in RULES:
        mend(config, before, stay)
    config.num_hidden_layers = len(stay)


def _has(config: Any, name: str, kind: type) -> bool:
    """Whether a config says something of that name, itself and in that form."""
    return name in vars(config) and type(vars(config)[name]) is kind


@rule
def with_an_entry_for_each(config: Any, before: int, stay: Sequence[int]) -> None:
    """``layer_types``, ``no_rope_layers``, ``attention_layers``: an entry for each block."""
    for key, value in list(vars(config).items()):
        of_each = isinstance(value, list | tuple) and len(value) == before
        if of_each and "layer" in key and key not in _NUMBERS:
            setattr(config, key, type(value)([value[i] for i in stay]))


@rule
def with_an_entry_for_some(config: Any, before: int, stay: Sequence[int]) -> None:
    """``mlp_only_layers`` of Qwen, ``moe_layers`` of Llama 4: numbers of blocks."""
    for key in _NUMBERS:
        if _has(config, key, list):
            setattr(config, key, [new for new, old in enumerate(stay) if old in vars(config)[key]])


@rule
def counted_from_the_front(config: Any, before: int, stay: Sequence[int]) -> None:
    """``first_k_dense_replace`` of DeepSeek: so many blocks at the front."""
    for key in _AT_THE_FRONT:
        if _has(config, key, int):
            setattr(config, key, sum(old < vars(config)[key] for old in stay))


@rule
def up_to_a_last_one(config: Any, before: int, stay: Sequence[int]) -> None:
    """``moe_layer_end_index`` of Ernie 4.5: the last block that is a mixture."""
    if _has(config, "moe_layer_end_index", int):
        config.moe_layer_end_index = sum(old <= config.moe_layer_end_index for old in stay) - 1


@rule
def every_so_many(config: Any, before: int, stay: Sequence[int]) -> None:
    """``decoder_sparse_step`` of Qwen: each of the others is then named in ``mlp_only_layers``."""
    step = vars(config).get("decoder_sparse_step")
    if type(step) is int and step > 1 and _has(config, "mlp_only_layers", list):
        dense = {new for new, old in enumerate(stay) if (old + 1) % step}
        config.mlp_only_layers = sorted(dense.union(config.mlp_only_layers))
        config.decoder_sparse_step = 1


@rule
def in_runs(config: Any, before: int, stay: Sequence[int]) -> None:
    """``attention_types`` of GPT-Neo: lists of types, each repeated so often."""
    if _has(config, "attention_types", list) and "attention_layers" in vars(config):
        config.attention_types = [[[kind], 1] for kind in config.attention_layers]


@rule
def overruled(config: Any, before: int, stay: Sequence[int]) -> None:
    """``sliding_window_pattern`` of Gemma 3: `layer_types` decides, and it would say otherwise."""
    if "layer_types" in vars(config):
        for key in _OVERRULED:
            vars(config).pop(key, None)
