"""Figures that are remembered by the content of what decides them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import steppe
from steppe import methods
from steppe.llm import pruning_run as pruning
from steppe.llm.memo import Memo, perplexity_memo, remembered


def test_by_content(tmp_path: Path) -> None:
    memo = Memo({"a": 1, "b": [2, 3]})
    assert memo.get() is None
    memo.put({"perplexity": 7.0})
    assert Memo({"b": [2, 3], "a": 1}).get() == {"perplexity": 7.0}
    assert Memo({"a": 1, "b": [2, 4]}).get() is None
    assert [p.name for p in memo.path.parent.iterdir()] == [memo.path.name], "whole or not at all"


def test_what_is_damaged_is_measured_anew() -> None:
    memo = Memo({"a": 1})
    memo.put({"perplexity": 7.0})
    stored = json.loads(memo.path.read_text())
    for text in ("", "{", "[]", "{}", json.dumps(stored | {"decided_by": {"a": 2}})):
        memo.path.write_text(text)
        assert memo.get() is None
        assert remembered(lambda: {"perplexity": 8.0}, memo) == {"perplexity": 8.0}
        known = remembered(lambda: pytest.fail("measured twice"), memo)
        assert known == {"perplexity": 8.0, "remembered": True}


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    figure = remembered(lambda: {"perplexity": 8.0}, Memo({"a": 1}))
    assert figure["perplexity"] == 8.0
    assert "--no-remember" in figure["not_remembered"]


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Memo({}).path.parent == tmp_path / ".cache" / "steppe" / "perplexity"


def test_everything_that_decides_counts() -> None:
    from transformers import LlamaConfig

    tokens = torch.arange(8).view(2, 4)
    usual: dict[str, Any] = {
        "weights": "a",
        "config": LlamaConfig(rms_norm_eps=1e-5),
        "tokens": tokens,
        "device": "cpu",
        "dtype": "float32",
        "batch": 8,
    }
    others = [
        {"weights": "b"},
        {"config": LlamaConfig(rms_norm_eps=1e-6)},
        {"tokens": tokens + 1},
        {"tokens": tokens.view(1, 8)},
        {"dtype": "bfloat16"},
        {"batch": 4},
    ]
    paths = {perplexity_memo(**usual | other).path for other in [{}, *others]}
    assert len(paths) == 1 + len(others)
    named = LlamaConfig(rms_norm_eps=1e-5)
    named._name_or_path = "elsewhere"
    assert perplexity_memo(**usual | {"config": named}).path in paths


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The titles of what is really measured."""
    titles: list[str] = []
    real = pruning.streamed_perplexity

    def noted(*arguments: Any, title: str) -> Any:
        titles.append(title)
        return real(*arguments, title=title)

    monkeypatch.setattr(pruning, "streamed_perplexity", noted)
    return titles


def test_siblings_do_not_measure_the_dense_model_again(
    language_model: Path, word_text: Path, tmp_path: Path, measured: list[str]
) -> None:
    def pruned(name: str, sparsity: float, folder: Path = language_model, **options: Any) -> Any:
        options = {"evaluate": (word_text,), "evaluate_window": 16} | options
        method = methods.magnitude(sparsity=sparsity)
        record = steppe.prune(folder, method, None, tmp_path / name, **options)
        return record["dense"]["texts"][str(word_text)]

    first = pruned("a", 0.5)
    assert len(measured) == 2
    copy = Path(shutil.copytree(language_model, tmp_path / "copy"))
    second = pruned("b", 0.6, copy)
    assert second == first | {"remembered": True}
    assert len(measured) == 3
    assert "dense" not in measured[-1]
    assert "remembered" not in pruned("c", 0.6, remember=False)
    assert "remembered" not in pruned("d", 0.6, evaluate_window=8)
    # one weight is another one, in a file of the same size and date
    weights = load_file(copy / "model.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    path = copy / "model.safetensors"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    save_file(weights, path, {"format": "pt"})
    os.utime(path, ns=times)
    assert "remembered" not in pruned("e", 0.5, copy)
