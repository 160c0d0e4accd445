"""A model without its weights, and functions in the place of its blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steppe import SteppeError
from steppe.llm.skeleton import forget, patched, quiet, read_config, skeleton


def small(**changes: Any) -> Any:
    from transformers import LlamaConfig

    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    return LlamaConfig(vocab_size=9, num_attention_heads=2, **(sizes | changes))


def write(folder: Path, **held: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(held))
    return folder


def test_reads_the_config(language_model: Path) -> None:
    assert read_config(language_model).hidden_size == 12


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (
            {"architectures": ["ResNetForImageClassification"], "model_type": "resnet"},
            r"which takes pixel_values.*steppe\.sparsify",
        ),
        (
            {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper"},
            r"which takes input_features.*steppe\.sparsify",
        ),
        ({"model_type": "t5"}, "model type t5"),
        ({"architectures": ["NoneSuch"], "model_type": "t5"}, "NoneSuch"),
        ({"model_type": "never-heard-of"}, "transformers knows"),
        ({}, "transformers knows"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "awq"}}, "quantised"),
    ],
)
def test_configs_of_something_else(held: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(SteppeError, match=expected):
        read_config(write(tmp_path, **held))


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(SteppeError, match=r"config\.json.*none in"):
        read_config(tmp_path)


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe\x00"])
def test_a_config_that_is_no_json(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(SteppeError, match="must be JSON"):
        read_config(tmp_path)


def test_a_skeleton_has_shapes_and_buffers_but_no_weights() -> None:
    model = skeleton(small(), torch.float32)
    assert all(p.is_meta and not p.requires_grad for p in model.parameters())
    assert not any(b.is_meta for b in model.buffers())
    assert not model.training
    assert model.lm_head.weight.shape == (9, 8)


def test_forget_keeps_shapes() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    forget(module[0], recurse=False)
    assert module[0].weight.is_meta
    assert not module[1].weight.is_meta
    forget(module)
    assert [tuple(p.shape) for p in module.parameters()] == [(3, 2), (3,), (3,), (3,)]
    assert all(p.is_meta for p in module.parameters())


def test_stand_ins_go_again() -> None:
    blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    x = torch.ones(1, 2)
    before: Tensor = blocks[0](x)
    with patched({0: lambda x: x * 3}, blocks):
        assert torch.equal(blocks[0](x), x * 3)
        assert not torch.equal(blocks[1](x), x * 3)
    assert torch.equal(blocks[0](x), before)

    def inside() -> None:
        with patched({0: lambda x: x * 3}, blocks):
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        inside()
    assert torch.equal(blocks[0](x), before)


def test_quiet_ends() -> None:
    from transformers.utils import logging

    logging.enable_progress_bar()
    level = logging.get_verbosity()
    with quiet():
        assert not logging.is_progress_bar_enabled()
        assert logging.get_verbosity() == logging.ERROR
    assert logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == level
