"""A language model in onnxruntime: the same logits, or nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.llm import onnx
from steppe.llm.export import export

transformers = pytest.importorskip("transformers")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: steppe[onnx]")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: steppe[onnx]")


def write_slim(folder: Path) -> Any:
    """A Mistral with fewer heads than its width divides by: 3 of 16 in 64, tied, 2 blocks."""
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        head_dim=16,
        max_position_embeddings=64,
        initializer_range=0.3,
        sliding_window=None,
        tie_word_embeddings=True,
    )
    model = transformers.MistralForCausalLM(config).half()
    model.save_pretrained(folder)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_any_batch_and_length_gives_the_same_logits(tmp_path: Path) -> None:
    model = write_slim(tmp_path / "run")
    done = export(tmp_path / "run", "onnx", tmp_path / "out")
    assert done.record["finished"]
    assert done.record["error"] < 1e-5
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.onnx", "model.onnx.data", "config.json", "export.json"} <= names
    assert json.loads((tmp_path / "out/export.json").read_text()) == done.record
    session = runtime.InferenceSession(str(tmp_path / "out/model.onnx"))
    tokens = torch.randint(64, (4, 33))
    with torch.no_grad():
        expected = model(tokens).logits
    (logits,) = session.run(None, {"input_ids": tokens.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-3, atol=1e-4)


def test_what_differs_or_cannot_be_followed_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_slim(tmp_path / "run")

    def lost(*_: object, **__: object) -> None:
        raise RuntimeError("lost")

    monkeypatch.setattr(torch.onnx, "export", lost)
    with pytest.raises(SteppeError, match=r"follow a model; got MistralForCausalLM \(RuntimeError"):
        export(tmp_path / "run", "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(onnx, "_export", lambda *_: None)
    monkeypatch.setattr(onnx, "_difference", lost)
    with pytest.raises(RuntimeError):
        export(tmp_path / "run", "onnx", tmp_path / "out")
    assert not list((tmp_path / "out").glob(".unfinished*"))
    assert json.loads((tmp_path / "out/export.json").read_text())["finished"] is False
