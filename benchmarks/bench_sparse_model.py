"""A whole language model with zeros: tokens per second and memory beside the dense one.

    python benchmarks/bench_sparse_model.py --work runs/sparse-model

A Llama of 0.55 billion random weights (beyond every cache) is written once for each sparsity; the
least of each matrix are zero, embeddings and head are dense. ``steppe bench`` times it in turns and
in fresh processes. What is in the record already is not done again.

What it costs: 1.1 GB of disk for each of three sparsities, 3 GB of memory, about six minutes each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig

from steppe.core.serialization import write_text
from steppe.llm.generation_speed import Setting, compare_speed
from steppe.sparse.choose import conditions

SPARSITIES = (0.5, 0.7, 0.9)
CONFIG = LlamaConfig(
    architectures=["LlamaForCausalLM"],
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=11,
    num_attention_heads=32,
    num_key_value_heads=4,
    vocab_size=32000,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
    dtype="bfloat16",
    eos_token_id=None,
    bos_token_id=None,
)
SETTING = Setting(prompt=32, tokens=32, batches=(1,), turns=3, repeats=3)


def matrices() -> Iterator[tuple[str, tuple[int, int]]]:
    """The names and shapes [outputs, inputs] of a block's linear layers."""
    width, inner = CONFIG.hidden_size, CONFIG.intermediate_size
    keys = CONFIG.num_key_value_heads * width // CONFIG.num_attention_heads
    yield "self_attn.q_proj", (width, width)
    yield "self_attn.k_proj", (keys, width)
    yield "self_attn.v_proj", (keys, width)
    yield "self_attn.o_proj", (width, width)
    yield "mlp.gate_proj", (inner, width)
    yield "mlp.up_proj", (inner, width)
    yield "mlp.down_proj", (width, inner)


def weights(sparsity: float) -> dict[str, Tensor]:
    """Every tensor, normal numbers, in bfloat16."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return (0.02 * torch.randn(shape, generator=draw)).bfloat16()

    tensors = {"model.embed_tokens.weight": normal(CONFIG.vocab_size, CONFIG.hidden_size)}
    for block in range(CONFIG.num_hidden_layers):
        for name, shape in matrices():
            weight = normal(*shape)
            sample = weight.flatten()[: 2**20].abs().float()
            threshold = torch.quantile(sample, sparsity)
            kept = weight.abs() > threshold if sparsity else torch.ones_like(weight, dtype=bool)
            tensors[f"model.layers.{block}.{name}.weight"] = weight.where(kept, 0.0)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            one = torch.ones(CONFIG.hidden_size, dtype=torch.bfloat16)
            tensors[f"model.layers.{block}.{norm}.weight"] = one
    tensors["model.norm.weight"] = torch.ones(CONFIG.hidden_size, dtype=torch.bfloat16)
    return tensors


def written(work: Path, sparsity: float) -> Path:
    """The model's folder, made where it is not there."""
    folder = work / f"llama-{sparsity:g}"
    if not (folder / "model.safetensors").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        CONFIG.save_pretrained(folder)
        save_file(weights(sparsity), folder / "unfinished", {"format": "pt"})
        (folder / "unfinished").rename(folder / "model.safetensors")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="where the models are written")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/sparse-model.json"))
    arguments = parser.parse_args()
    here = conditions()
    stored: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    models = stored["models"] if stored.get("conditions") == here else {}
    for sparsity in SPARSITIES:
        if f"{sparsity:g}" in models:
            continue
        folder = str(written(arguments.work, sparsity))
        result = compare_speed(folder, folder, setting=SETTING)
        formats: dict[str, int] = {}
        for layer in result.pop("formats"):
            key = f"{layer['format']} ({layer['stored']})"
            formats[key] = formats.get(key, 0) + 1
        models[f"{sparsity:g}"] = result | {"formats": formats}
        print(sparsity, formats, result["speed"], result["arms"], flush=True)
        text = json.dumps({"conditions": here, "models": models}, indent=1) + "\n"
        write_text(arguments.out, text)


if __name__ == "__main__":
    main()
