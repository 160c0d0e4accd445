"""What the dense model writes: drawn from its own distribution, once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.engine.progress import watched
from steppe.llm.kept import kept
from steppe.llm.load import load
from steppe.llm.tokens import sampled as module
from steppe.llm.tokens.sampled import Sampling, of_itself, sampled


def transcribed(folder: Path, window: int, size: int, seed: int, how: Sampling) -> torch.Tensor:
    """Without a cache of keys and values: all of the window at each token."""
    model, tokenizer = load(str(folder))
    draw = torch.Generator().manual_seed(seed)
    ids = torch.full((size, 1), tokenizer.eos_token_id)
    while ids.shape[1] < window:
        with torch.no_grad():
            p = (model(ids).logits[:, -1] / how.temperature).softmax(-1)
        if how.top_k:
            p = p * (p >= p.topk(how.top_k).values[:, -1:])
        ids = torch.cat([ids, torch.multinomial(p, 1, generator=draw)], 1)
    return ids


def test_each_token_is_drawn_as_without_a_cache(language_model: Path) -> None:
    for source in ("self", "self:0.7", "self:1.5:3"):
        got = sampled(language_model, source, samples=5, window=12)
        expected = transcribed(language_model, 12, 5, 0, Sampling.of(source))
        assert torch.equal(got.tokens, expected), source
    assert got.tokens.dtype == torch.int64


def test_it_is_written_once(language_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sampled(language_model, "self", samples=3, window=8, seed=4)
    said = first.description
    assert (said["prompt"], said["temperature"], said["top_k"]) == ("<unk>", 1.0, 0)
    assert (said["seed"], said["drawn_from"], said["samples"]) == (4, "model", 3)
    assert len(said["model"]) == 64
    json.dumps(said)
    monkeypatch.setattr(module, "load", None)
    again = sampled(language_model, "self", samples=3, window=8, seed=4)
    assert torch.equal(again.tokens, first.tokens)
    assert again.description == said
    (folder,) = kept("sampled").iterdir()
    assert {p.name for p in folder.iterdir()} == {"windows.safetensors", "windows.json"}
    for others in ({"seed": 5}, {"samples": 4}, {"window": 9}):
        with pytest.raises(TypeError):
            sampled(language_model, "self", **({"samples": 3, "window": 8, "seed": 4} | others))


def test_another_model_writes_anew(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(language_model, tmp_path / "copy")
    first = sampled(language_model, "self", samples=2, window=8)
    monkeypatch.setattr(module, "load", None)
    assert torch.equal(sampled(tmp_path / "copy", "self", samples=2, window=8).tokens, first.tokens)
    weights = tmp_path / "copy" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(TypeError):
        sampled(tmp_path / "copy", "self", samples=2, window=8)


def test_after_a_kill_batches_that_are_there_stay(
    language_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOGETHER", 2)
    undisturbed = sampled(language_model, "self", samples=5, window=6).tokens
    shutil.rmtree(kept("sampled"))
    made, write = list[Path](), module.write_tensors

    def dying(path: Path, *rest: Any) -> None:
        made.append(path)
        if len(made) == 2:
            raise KeyboardInterrupt
        write(path, *rest)

    monkeypatch.setattr(module, "write_tensors", dying)
    with pytest.raises(KeyboardInterrupt):
        sampled(language_model, "self", samples=5, window=6)
    steps: list[Any] = []
    with watched(lambda *step: steps.append(step)):
        assert torch.equal(sampled(language_model, "self", samples=5, window=6).tokens, undisturbed)
    assert [path.stem for path in made] == [
        *("batch-00000", "batch-00001", "batch-00001", "batch-00002"),
        "windows",
    ]
    assert [step[1:] for step in steps] == [(n, 5, "windows") for n in (0, 2, 4, 5)]


def test_windows_begin_with_the_prompt(language_model: Path) -> None:
    got = sampled(language_model, "self:1:0:3:a b : a", samples=99, window=9)
    assert got.tokens.shape == (3, 9)
    assert got.tokens[:, :2].tolist() == [[1, 2]] * 3
    assert got.description["prompt"] == "a b : a"
    with pytest.raises(SteppeError, match=r"4 tokens, and a window of 4.*--window 5"):
        sampled(language_model, "self::::a b c d", samples=1, window=4)


def test_as_many_positions_as_the_model_has(language_model: Path) -> None:
    with pytest.raises(SteppeError, match="--window 64"):
        sampled(language_model, "self", samples=1, window=65)


def test_how_it_is_written() -> None:
    assert of_itself("self")
    assert of_itself("self:0.8")
    assert not of_itself("./self")
    assert not of_itself("selfish")
    assert not of_itself(torch.zeros(1))
    assert Sampling.of("self:0.8:50:12:a:b") == Sampling(
        temperature=0.8, top_k=50, samples=12, prompt="a:b"
    )
    for wrong in ("self:0", "self:warm", "self:1:-1", "self:1:1:0", "self:inf", "self:1:0.5"):
        with pytest.raises(SteppeError, match=r"self:0\.8:50"):
            Sampling.of(wrong)
