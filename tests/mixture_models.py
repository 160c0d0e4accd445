"""Tiny random language models with mixtures of experts, for tests of what is removed of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from language_models import VOCABULARY, random_model
from steppe.removal.mixtures import mixtures_of

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "intermediate_size": 24,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MANY: dict[str, Any] = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
DEEPSEEK: dict[str, Any] = SIZES | {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 12,
    "n_shared_experts": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "num_nextn_predict_layers": 0,
}
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "mixtral": ("Mixtral", SIZES | {"num_local_experts": 8}, "num_local_experts"),
    "qwen3-moe": ("Qwen3Moe", SIZES | MANY | {"head_dim": 8}, "num_local_experts"),
    "qwen2-moe": (
        "Qwen2Moe",
        SIZES | MANY | {"shared_expert_intermediate_size": 20, "mlp_only_layers": [1]},
        "num_experts",
    ),
    "deepseek-v3": ("DeepseekV3", DEEPSEEK, "n_routed_experts"),
    "gpt-oss": (
        "GptOss",
        SIZES
        | {"num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 8}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
        "num_local_experts",
    ),
}


def build(name: str, **more: Any) -> Any:
    """A random model whose norms and biases, those of the routers too, are no round numbers."""
    kind, options, _ = FAMILIES[name]
    torch.manual_seed(0)
    model = random_model(kind, options | more)
    with torch.no_grad():
        for mixture in mixtures_of(model):
            mixture.tensors[mixture.name].normal_()  # some families begin with zeros
            for bias in mixture.biases:
                bias.normal_(std=0.3)
    return model


def close(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max() / other.abs().max()) < 1e-5
