from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from steppe.llm.compact import compress
from steppe.llm.export import export
from steppe.llm.footprint import footprint

transformers = pytest.importorskip("transformers")
Keep = Callable[[Tensor], Tensor]


def write(folder: Path, keep: Keep, transposed: bool = False) -> Path:
    """A model whose linear layers keep what the function says."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = transformers.LlamaForCausalLM(config).half()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                kept = keep(weight.t()).t() if transposed else keep(weight)
                weight.copy_(torch.where(kept.bool(), weight, 0.0))
    model.save_pretrained(folder)
    return folder


def random_half(weight: Tensor) -> Tensor:
    return torch.rand(weight.shape) < 0.5


def two_of_four(weight: Tensor) -> Tensor:
    order = torch.rand(weight.shape).unflatten(-1, (-1, 4)).argsort(-1)
    return (order < 2).flatten(-2)


def four_of_eight(weight: Tensor) -> Tensor:
    order = torch.rand(weight.shape).unflatten(-1, (-1, 8)).argsort(-1)
    return (order < 4).flatten(-2)


def rare(weight: Tensor) -> Tensor:
    return torch.rand(weight.shape) < 0.03


@pytest.mark.parametrize(
    ("keep", "transposed", "pattern"),
    [
        (random_half, False, ""),
        (two_of_four, False, "2:4"),
        (two_of_four, True, "2:4"),
        (four_of_eight, False, "4:8"),
        (rare, False, ""),
        (torch.ones_like, False, ""),
    ],
)
def test_patterns_are_seen_in_the_weights(
    tmp_path: Path, keep: Keep, transposed: bool, pattern: str
) -> None:
    assert footprint(write(tmp_path, keep, transposed))["pattern"] == pattern


def test_bytes_and_zeros_are_those_of_every_tensor(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", random_half)
    found = footprint(folder)
    state = load_file(folder / "model.safetensors")
    assert found["parameters"] == sum(t.numel() for t in state.values())
    zeros = sum(int((t == 0).sum()) for t in state.values())
    assert found["zeros"] == pytest.approx(zeros / found["parameters"])
    assert found["disk_bytes"] == (folder / "model.safetensors").stat().st_size
    packed = 0
    for name, tensor in state.items():
        parts = compress(name, tensor)
        shape = parts.pop(f"{name}.shape", torch.empty(0))  # 16 bytes that any format has
        assert shape.numel() in (0, 2)
        packed += sum(t.nbytes for t in parts.values()) if parts else tensor.nbytes
    assert found["packed_bytes"] == packed


def test_a_compact_folder_is_the_same_model(tmp_path: Path) -> None:
    plain = footprint(write(tmp_path / "run", two_of_four))
    export(tmp_path / "run", "compact", tmp_path / "small", verify="tensors")
    small = footprint(tmp_path / "small")
    assert small["disk_bytes"] < plain["disk_bytes"]
    assert {k: v for k, v in small.items() if k != "disk_bytes"} == {
        k: v for k, v in plain.items() if k != "disk_bytes"
    }
