"""Tiny random language models of every family, for tests of what is done to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

VOCABULARY, WIDTH = 48, 16
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GATED: dict[str, Any] = SIZES | {"intermediate_size": 24}
GROUPED: dict[str, Any] = GATED | {"num_attention_heads": 8, "num_key_value_heads": 4}
WIDE_HEADS: dict[str, Any] = GROUPED | {"head_dim": 8}
SLIDING: dict[str, Any] = {
    "use_sliding_window": True,
    "sliding_window": 8,
    "max_window_layers": 1,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
}
DEEPSEEK: dict[str, Any] = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "first_k_dense_replace": 1,
}
OPT: dict[str, Any] = SIZES | {"ffn_dim": 24, "word_embed_proj_dim": WIDTH}
GPT2: dict[str, Any] = SIZES | {"n_inner": 24}
NEO: dict[str, Any] = SIZES | {
    "num_hidden_layers": 4,
    "window_size": 8,
    "attention_types": [[["global", "local"], 2]],
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GATED),
    "llama-grouped": ("Llama", GROUPED | {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", GROUPED | {"attention_bias": True, "mlp_bias": True}),
    "mistral": ("Mistral", GROUPED | {"sliding_window": 8}),
    "qwen2": ("Qwen2", GROUPED | {"tie_word_embeddings": True}),
    "qwen2-sliding": ("Qwen2", GROUPED | SLIDING),
    "qwen3": ("Qwen3", WIDE_HEADS),
    "gemma": ("Gemma", WIDE_HEADS),
    "gemma2": ("Gemma2", WIDE_HEADS | {"sliding_window": 8, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3Text", WIDE_HEADS | {"sliding_window": 8, "sliding_window_pattern": 2}),
    "phi": ("Phi", GATED | {"partial_rotary_factor": 0.5}),
    "phi3": ("Phi3", GROUPED),
    "smollm3": ("SmolLM3", GROUPED | {"no_rope_layer_interval": 2}),
    "opt": ("OPT", OPT),
    "opt-post-norm": ("OPT", OPT | {"word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    "gpt2": ("GPT2", GPT2),
    "gpt2-untied": ("GPT2", GPT2 | {"tie_word_embeddings": False}),
    "gpt-neo": ("GPTNeo", NEO),
    "gpt-neox": ("GPTNeoX", GATED),
    "mixtral": ("Mixtral", GROUPED | {"num_local_experts": 4}),
    "qwen2-moe": (
        "Qwen2Moe",
        GROUPED | EXPERTS | {"shared_expert_intermediate_size": 12, "mlp_only_layers": [0]},
    ),
    "qwen3-moe": ("Qwen3Moe", WIDE_HEADS | EXPERTS | {"mlp_only_layers": [1]}),
    "qwen3-moe-every-second": ("Qwen3Moe", WIDE_HEADS | EXPERTS | {"decoder_sparse_step": 2}),
    "olmoe": ("Olmoe", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}),
    "gpt-oss": (
        "GptOss",
        WIDE_HEADS
        | {"sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 2}
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
    ),
    "deepseek-v3": ("DeepseekV3", GATED | DEEPSEEK),
}
"""Name -> class of transformers, without its end, and options of its config."""


def random_model(kind: str, options: dict[str, Any]) -> Any:
    """A random model whose norms and biases are no round numbers either."""
    import transformers

    config = getattr(transformers, f"{kind}Config")(**options)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn_like(p))
    return model


def build(name: str, **more: Any) -> Any:
    """A random model of a family, the same each time.

    Args:
        name: see `FAMILIES`.
        more: options of its config, in place of those that it has there.
    """
    kind, options = FAMILIES[name]
    torch.manual_seed(0)
    return random_model(kind, options | more)


class Saved:
    """Folders of models, each made when it is first asked for; tests leave them as they are.

    Args:
        factory: of temporary folders.
        make: makes the model of a name.
        shard: size of its files.
        more: options for what makes.
    """

    def __init__(
        self,
        factory: pytest.TempPathFactory,
        make: Callable[..., Any] = build,
        shard: str = "1GB",
        **more: Any,
    ) -> None:
        self._factory, self._make, self._shard, self._more = factory, make, shard, more
        self._made: dict[tuple[str, str], Path] = {}

    def __call__(self, name: str, shard: str | None = None) -> Path:
        """The folder of one.

        Args:
            name: of the model.
            shard: size of its files, if it is not as of the others.
        """
        size = shard or self._shard
        if (name, size) not in self._made:
            path = self._made[name, size] = self._factory.mktemp(name)
            self._make(name, **self._more).save_pretrained(path, max_shard_size=size)
            (path / "chat_template.jinja").write_text("{{ messages }}")
        return self._made[name, size]


def reload(folder: Path, **options: Any) -> Any:
    """A model as plain transformers has it; nothing is missing and nothing is left over."""
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(found.values()), found
    return model.eval()


def windows(count: int = 6, window: int = 20, vocabulary: int = VOCABULARY) -> Tensor:
    """Random tokens, none of which begins or ends a text."""
    return torch.randint(3, vocabulary, (count, window), generator=torch.Generator().manual_seed(1))


def on_disk(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder, under the names that its files have."""
    found = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return found


def same_on_disk(one: Path, other: Path) -> bool:
    """Whether two folders have the same tensors, bit by bit."""
    first, second = on_disk(one), on_disk(other)
    return first.keys() == second.keys() and all(
        torch.equal(t, second[n]) for n, t in first.items()
    )
