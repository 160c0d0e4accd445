"""Which tensors of a checkpoint make which parameters: packed experts, prefixes, gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from steppe import SteppeError
from steppe.llm.checkpoint import Checkpoint
from steppe.llm.keys import REST, Keys
from steppe.llm.model import StreamedModel
from steppe.llm.skeleton import decoder_blocks, read_config, skeleton


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Mixtral of two blocks with two experts."""
    from transformers import MixtralConfig, MixtralForCausalLM

    folder = tmp_path_factory.mktemp("mixture")
    config = MixtralConfig(
        vocab_size=9,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    return folder


def made(folder: Path) -> tuple[Any, Keys]:
    model = skeleton(read_config(folder), torch.float32)
    prefix, blocks = decoder_blocks(model)
    return model, Keys(model, Checkpoint(folder), prefix, len(blocks))


def test_each_tensor_belongs_somewhere(mixture: Path) -> None:
    _, keys = made(mixture)
    assert sorted(keys.of) == [REST, 0, 1]
    assert sorted(k for group in keys.of.values() for k in group) == sorted(
        Checkpoint(mixture).files
    )
    assert sorted(keys.of[REST]) == [
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.norm.weight",
    ]
    assert all(k.startswith("model.layers.1.") for k in keys.of[1])


def test_experts_are_packed_and_unpacked(mixture: Path) -> None:
    model, keys = made(mixture)
    keys.fill(keys.of[1], torch.float32)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    packed = model.get_parameter(name)
    held = load_file(mixture / "model.safetensors")
    own = "model.layers.1.block_sparse_moe.experts.1"
    assert torch.equal(packed[1], torch.cat([held[f"{own}.w1.weight"], held[f"{own}.w3.weight"]]))
    # reading embeddings in between must not make it forget how experts are stored
    keys.fill(keys.of[REST], torch.float32)
    written = keys.written({name: packed.detach()})
    assert len(written) == 4
    assert all(torch.equal(held[key], tensor) for key, tensor in written.items())


def test_dtypes_are_those_of_the_parts(mixture: Path, tmp_path: Path) -> None:
    weights = load_file(mixture / "model.safetensors")
    kinds = {n: t if "norm" in n else t.bfloat16() for n, t in weights.items()}
    (tmp_path / "config.json").write_text((mixture / "config.json").read_text())
    save_file(kinds, tmp_path / "model.safetensors", {"format": "pt"})
    _, keys = made(tmp_path)
    assert keys.dtype("model.layers.0.mlp.experts.down_proj") == torch.bfloat16
    assert keys.dtype("model.layers.0.input_layernorm.weight") == torch.float32
    assert keys.dtype("a name that no tensor makes") == torch.bfloat16


def test_an_expert_that_is_missing(mixture: Path, tmp_path: Path) -> None:
    weights = load_file(mixture / "model.safetensors")
    del weights["model.layers.1.block_sparse_moe.experts.1.w2.weight"]
    (tmp_path / "config.json").write_text((mixture / "config.json").read_text())
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(SteppeError, match=r"too little for model\.layers\.1\.mlp\.experts\.down"):
        StreamedModel(str(tmp_path))


def test_parameters_that_stayed_empty(mixture: Path) -> None:
    model, keys = made(mixture)
    name = "model.layers.0.mlp.experts.down_proj"
    with pytest.raises(SteppeError, match=rf"no {name}, in "):
        keys.check_filled({name: model.get_parameter(name)})
    keys.fill(keys.of[0], torch.float32)
    keys.check_filled({name: model.get_parameter(name)})
