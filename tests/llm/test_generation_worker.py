from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import pytest
import torch

from steppe.llm import generation_worker
from steppe.llm.generation_speed import REFUSED, in_fresh_process
from steppe.llm.generation_worker import forget_peak, main, measured, peak, resident

SHORT = {"dtype": "float32", "threads": None, "prompt": 4, "tokens": 3, "repeats": 1}


def test_one_model_is_loaded_and_writes(language_model: Path) -> None:
    wanted = SHORT | {"model": str(language_model), "sparse": "bits"}
    result = measured(wanted | {"batches": [1, 2], "repeats": 2})
    assert list(result["batches"]) == ["1", "2"]
    for batch, own in result["batches"].items():
        assert len(own["token_ms"]) == len(own["prompt_ms"]) == 2
        assert [len(text) for text in own["text"]] == [4] * int(batch)
    dense = measured(wanted | {"sparse": "dense", "batches": [1]})
    assert dense["batches"]["1"]["text"] == result["batches"]["1"]["text"]


def test_memory_is_what_the_system_says() -> None:
    most = peak()
    assert most is None or 0 < resident() <= most


def test_a_peak_is_forgotten_where_the_system_can() -> None:
    block = torch.ones(2**25)  # 134 MB
    del block
    if not forget_peak():
        pytest.skip("this system does not let a peak begin anew")
    before = peak()
    assert before is not None
    assert before <= resident() + 2**22
    pages = mmap.mmap(-1, 2**26)  # malloc might give what tests before this one gave back
    torch.frombuffer(pages, dtype=torch.uint8).fill_(1)
    assert len(pages) * 0.9 < (peak() or 0) - before < len(pages) * 1.5


def test_a_peak_that_cannot_be_forgotten_is_not_known(
    language_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_worker, "forget_peak", lambda: False)
    wanted = SHORT | {"model": str(language_model), "sparse": "bits", "batches": []}
    assert measured(wanted)["peak_bytes"] is None


def test_libraries_are_no_memory_of_a_model(language_model: Path) -> None:
    """A model of some hundred kB takes a few MB at most; transformers alone takes a hundred."""
    wanted = SHORT | {"model": str(language_model), "batches": [1]}
    for sparse in ("dense", "bits"):
        result = in_fresh_process(wanted | {"sparse": sparse})
        assert result["before_bytes"] > 1e8
        assert result["resident_bytes"] < 4e7
        assert result["peak_bytes"] is None or result["peak_bytes"] < 5e7
        assert result["written_bytes"] >= result["resident_bytes"] - 2**22


def test_a_users_error_leaves_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(SHORT | {"model": str(tmp_path / "no"), "sparse": "bits", "batches": [1]})
    assert code == REFUSED
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert set(said) == {"rule", "got", "consequence", "way_out"}
