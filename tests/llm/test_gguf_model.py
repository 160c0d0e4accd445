"""Names, rows and sizes of a model as llama.cpp reads them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.llm.gguf_model import Blocks, Entry, entries_of, family_of, interleave, rope_factors

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def shapes_of(kind: str = "Llama", **options: Any) -> tuple[Any, dict[str, torch.Size]]:
    config = getattr(transformers, f"{kind}Config")(**SIZES | options)
    with torch.device("meta"):
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
    return config, {key: tensor.shape for key, tensor in model.state_dict().items()}


def kinds(shapes: dict[str, torch.Size], dtype: torch.dtype = torch.float16) -> Any:
    return {key: (dtype, shape) for key, shape in shapes.items()}


def test_neighbours_are_what_a_rotation_mixes() -> None:
    """Turning pairs of neighbours is turning halves, rows moved."""
    heads, size, angle = 3, 8, torch.linspace(0.1, 1.0, 4)
    weight, x = torch.randn(heads * size, 5), torch.randn(5)
    halves = (weight @ x).view(heads, 2, size // 2)
    turned = torch.stack(
        (
            halves[:, 0] * angle.cos() - halves[:, 1] * angle.sin(),
            halves[:, 1] * angle.cos() + halves[:, 0] * angle.sin(),
        ),
        1,
    ).reshape(-1)
    pairs = (interleave(weight, heads) @ x).view(heads, size // 2, 2)
    own = torch.stack(
        (
            pairs[..., 0] * angle.cos() - pairs[..., 1] * angle.sin(),
            pairs[..., 1] * angle.cos() + pairs[..., 0] * angle.sin(),
        ),
        -1,
    ).reshape(-1)
    torch.testing.assert_close(own, interleave(turned, heads))
    assert torch.equal(interleave(interleave(weight, heads), heads, undo=True), weight)


def test_what_is_written_comes_back() -> None:
    weight = torch.randn(32, 4)
    entry = Entry(key="k", name="n", shape=weight.shape, dtype=torch.float32, heads=4)
    assert not torch.equal(entry.written(weight), weight)
    assert torch.equal(entry.stored(entry.written(weight)), weight)


def test_removed_heads_and_neurons_are_read_from_the_weights() -> None:
    config, shapes = shapes_of()
    same = {
        key: torch.Size((48, *shape[1:])) if "gate_proj" in key else shape
        for key, shape in shapes.items()
    }
    assert Blocks.of(config, same).neurons == (48, 48)
    assert family_of(config, same)[1] == "llama"
    same["model.layers.1.mlp.gate_proj.weight"] = torch.Size((40, 64))
    assert family_of(config, same)[1] == "deci"


@pytest.mark.parametrize(
    ("kind", "key", "rows", "what"),
    [
        ("Qwen2", "mlp.gate_proj", (48, 40), "different sizes in a qwen2"),
        ("Qwen3", "self_attn.q_proj", (64, 32), "different sizes in a qwen3"),
        ("Qwen2", "self_attn.q_proj", (32, 32), "removed heads in a qwen2"),
        ("Llama", "mlp.gate_proj", (48, 0), "without heads or neurons"),
    ],
)
def test_what_llama_cpp_cannot_say_is_refused(
    kind: str, key: str, rows: tuple[int, int], what: str
) -> None:
    config, shapes = shapes_of(kind, head_dim=16)
    for block, n in enumerate(rows):
        shapes[f"model.layers.{block}.{key}.weight"] = torch.Size((n, 64))
    with pytest.raises(SteppeError, match=what):
        family_of(config, shapes)


def test_other_architectures_and_activations_are_refused() -> None:
    with pytest.raises(SteppeError, match=r"llama, mistral, qwen2, qwen3; got gpt2"):
        family_of(transformers.GPT2Config(), {})
    config, shapes = shapes_of(hidden_act="gelu")
    with pytest.raises(SteppeError, match="another activation than silu; got gelu"):
        family_of(config, shapes)


def test_every_tensor_needs_a_name() -> None:
    gguf = pytest.importorskip("gguf")
    config, shapes = shapes_of("Qwen3", attention_bias=True)
    with pytest.raises(SteppeError, match=r"o_proj\.bias"):
        entries_of(gguf, config, kinds(shapes), None)
    config, shapes = shapes_of()
    with pytest.raises(SteppeError, match=r"float64.*--dtype f32"):
        entries_of(gguf, config, kinds(shapes, torch.float64), None)
    entries = entries_of(gguf, config, kinds(shapes), None)
    by_name = {entry.name: entry for entry in entries}
    assert len(by_name) == len(entries) == len(shapes)
    assert by_name["blk.1.attn_q.weight"].heads == 4
    assert by_name["blk.1.attn_k.weight"].heads == 2
    assert by_name["blk.1.attn_v.weight"].heads == 0
    assert by_name["output_norm.weight"].dtype == torch.float32
    assert by_name["output.weight"].dtype == torch.float16


def test_a_tied_head_is_the_embedding() -> None:
    gguf = pytest.importorskip("gguf")
    config, shapes = shapes_of(tie_word_embeddings=True)
    entries = entries_of(gguf, config, kinds(shapes), None)
    assert "output.weight" not in {entry.name for entry in entries}


def test_frequencies_are_divided_as_transformers_does() -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 1e4,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config = transformers.LlamaConfig(**SIZES, rope_parameters=rope)
    factors = rope_factors(config, 16)
    assert factors is not None
    assert factors.min() == 1
    assert factors.max() == 8
    assert rope_factors(transformers.LlamaConfig(**SIZES), 16) is None
    yarn = SimpleNamespace(model_type="llama", rope_scaling={"rope_type": "yarn"})
    with pytest.raises(SteppeError, match="yarn"):
        rope_factors(yarn, 16)


def test_the_way_out_of_a_refusal_exists(tmp_path: Path) -> None:
    from steppe.llm.export import EXPORTS
    from steppe.llm.gguf_model import DENSE_OUT

    assert "compact" in EXPORTS
    assert "--to compact" in DENSE_OUT
