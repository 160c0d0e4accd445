"""The parameters that a shape says, beside those of the models that transformers builds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from steppe import SteppeError
from steppe.llm.structured.shape import Shape, skeleton_of

SIZES = {
    "vocab_size": 48,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GATED = SIZES | {"intermediate_size": 24, "num_key_value_heads": 4}
QWEN3 = GATED | {"head_dim": 8, "num_key_value_heads": 2}
GPT2 = {"vocab_size": 48, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 64}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 12}
SHARED = {"shared_expert_intermediate_size": 12, "num_experts": 4}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GATED),
    "llama-tied": ("Llama", GATED | {"tie_word_embeddings": True, "attention_bias": True}),
    "qwen3": ("Qwen3", QWEN3),
    "opt": ("OPT", SIZES | {"ffn_dim": 24, "word_embed_proj_dim": 8}),
    "gpt2": ("GPT2", GPT2),
    "mixtral": ("Mixtral", GATED | {"num_local_experts": 4}),
    "qwen2-moe": ("Qwen2Moe", GATED | EXPERTS | SHARED),
    "gpt-oss": ("GptOss", QWEN3 | {"num_local_experts": 4, "num_experts_per_tok": 2}),
}
# what a config calls the sizes that a shape has
CALLED = {
    "Llama": {"neurons": "intermediate_size", "heads": "num_key_value_heads"},
    "Qwen3": {"neurons": "intermediate_size", "heads": "num_key_value_heads"},
    "OPT": {"neurons": "ffn_dim"},
    "GPT2": {"neurons": "n_inner"},
    "Mixtral": {"neurons": "intermediate_size", "experts": "num_local_experts"},
    "Qwen2Moe": {"neurons": "moe_intermediate_size", "experts": "num_experts"},
    "GptOss": {"neurons": "intermediate_size", "experts": "num_local_experts"},
}


def config_of(name: str, **changes: Any) -> Any:
    import transformers

    kind, options = FAMILIES[name]
    return getattr(transformers, f"{kind}Config")(**options | changes)


def parameters_of(config: Any) -> int:
    """Of a model with weights."""
    from transformers import AutoModelForCausalLM

    return sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_shape_has_the_parameters_of_the_model(name: str) -> None:
    config = config_of(name)
    shape = Shape.of(config)
    assert shape.parameters == parameters_of(config)
    assert (shape.blocks, shape.hidden, shape.vocabulary) == (3, 16, 48)
    assert shape.bytes == 4 * shape.parameters
    assert shape.per_block > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_a_narrower_shape_has_the_parameters_of_a_narrower_model(name: str) -> None:
    config, kind = config_of(name), FAMILIES[name][0]
    shape = Shape.of(config)
    depth = "n_layer" if kind == "GPT2" else "num_hidden_layers"
    others = {"layer_types": config.layer_types[:2]} if "layer_types" in config.to_dict() else {}
    fewer = config_of(name, **{depth: 2}, **others)
    assert replace(shape, blocks=2).parameters == parameters_of(fewer)
    for size, called in CALLED[kind].items():
        narrow = {called: 10 if size == "neurons" else 2}
        if size == "heads":  # the query heads go with their key head
            narrow |= {
                "num_attention_heads": 2 * shape.queries_per_key,
                "head_dim": shape.head_size,
            }
            narrow[called] = 2
        changed = shape.resized(**{size: narrow[called]})
        assert changed.parameters == parameters_of(config_of(name, **narrow)), size


def test_sizes_are_found_by_what_the_modules_are() -> None:
    found = Shape.of(config_of("qwen3"))
    assert (found.neurons, found.heads, found.queries_per_key, found.head_size) == (24, 2, 2, 8)
    assert found.cuts == ("blocks", "heads", "neurons")
    assert found.said() == "3 blocks, 24 neurons, 2 heads"
    mixture = Shape.of(config_of("qwen2-moe"))
    assert (mixture.experts, mixture.top_k, mixture.neurons, mixture.heads) == (4, 2, 12, 4)
    assert mixture.cuts == ("blocks", "heads", "experts"), "a shared expert has neurons too"
    half = Shape.of(config_of("llama", dtype="bfloat16"))
    assert half.bytes == 2 * half.parameters


@pytest.mark.parametrize("name", ["llama", "qwen3", "opt", "gpt2"])
def test_a_cut_skeleton_computes(name: str) -> None:
    config = config_of(name)
    narrow = replace(Shape.of(config), blocks=2, heads=1, neurons=7)
    model = skeleton_of(config, narrow)
    assert sum(p.numel() for p in model.parameters()) == narrow.parameters
    assert all(p.is_meta for p in model.parameters())
    assert config.to_dict() == config_of(name).to_dict()
    model.to_empty(device="cpu")
    assert model(torch.zeros(1, 5, dtype=torch.long)).logits.shape == (1, 5, 48)


@pytest.mark.parametrize("name", ["mixtral", "gpt-oss"])
def test_a_mixture_is_cut_to_fewer_and_narrower_experts(name: str) -> None:
    config = config_of(name)
    narrow = Shape.of(config).resized(blocks=2, neurons=8, experts=3)
    model = skeleton_of(config, narrow)
    assert sum(p.numel() for p in model.parameters()) == narrow.parameters
    model.to_empty(device="cpu")
    assert model(torch.zeros(1, 5, dtype=torch.long)).logits.shape == (1, 5, 48)


def test_blocks_that_differ_are_refused() -> None:
    config = config_of("qwen2-moe", mlp_only_layers=[0])
    with pytest.raises(SteppeError, match=r"model\.layers\.1.*not those of model\.layers\.0"):
        Shape.of(config)
