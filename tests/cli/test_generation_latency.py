"""steppe latency of a language model, as a user sees it; the timer is a formula."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from steppe.cli.main import main
from steppe.llm.structured import block_timing


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Nothing is truly timed; threads, prompt and tokens of every measurement."""
    seen: list[tuple[int, int, int]] = []

    def timer(model: Any, prompt: int, tokens: int) -> tuple[float, float]:
        seen.append((torch.get_num_threads(), prompt, tokens))
        weights = float(sum(p.numel() for p in model.parameters()))
        return prompt * weights, weights

    measure = partial(block_timing.measure, timer=timer)
    monkeypatch.setattr(block_timing, "measure", measure)
    return seen


def test_a_table_is_measured_once_and_serves_plan(
    language_model: Path,
    word_text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    asked: list[tuple[int, int, int]],
) -> None:
    out, before = tmp_path / "table.json", torch.get_num_threads()
    options = ["--prompt", 20, "--tokens", 5, "--threads", 3, "--passes", 1, "--out", out]
    run("latency", language_model, *options, "--json")
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert record["points"] == len(asked) > 8
    assert set(asked) == {(3, 20, 5)}
    assert torch.get_num_threads() == before
    assert record["conditions"]["threads"] == 3
    assert record["total_ms"] == pytest.approx(24 * record["token_ms"])
    assert f"written to {out}" in shown.err
    asked.clear()
    run("latency", language_model, *options, "--quiet")
    assert asked == []
    run("latency", language_model, *options, "--threads", 2, code=2)
    assert "for the threads" in capsys.readouterr().err

    # the time is that of all weights: what is asked of one is met by the other
    flags = ["--calibration", word_text, "--samples", 4, "--window", 16, "--method", "slim"]
    flags += ["--out", tmp_path / "out", "--device", "cpu", "--latency-table", out]
    run("plan", language_model, *flags, "--target", "latency=0.7", "--json")
    shown = capsys.readouterr()
    shape = json.loads(shown.out)["shape"]
    assert shape["before"]["total_ms"] == pytest.approx(record["total_ms"])
    assert shape["after"]["total_ms"] <= 0.7 * shape["before"]["total_ms"]
    assert shape["after"]["parameters"] <= 0.7 * shape["before"]["parameters"]
    assert "tokens/s instead of" in shown.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tokens", 1], "two tokens or more"),
        (["--prompt", 64], "for 64 positions"),
        (["--dtype", "float8"], "float16"),
        (["--batch", "1"], "--batch is an option for images"),
        (["--channels-last"], "--channels-last is an option for images"),
        (["--threads", 0], "--threads is 1 or more"),
    ],
)
def test_wrong_input(
    options: list[object],
    said: str,
    language_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "table.json"
    run("latency", language_model, *options, "--out", out, code=2)
    assert said in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_options_of_texts_are_none_of_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("latency", "resnet20", "--prompt", 3, "--out", tmp_path / "t.json", code=2)
    assert "--prompt is an option for language models" in capsys.readouterr().err


def test_a_target_and_a_sparsity_are_one_too_many(
    language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--method", "slim", "--sparsity", 0.5, "--target", "parameters=0.5"]
    run("prune", language_model, *flags, "--out", tmp_path / "out", code=2)
    assert "one of the two" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
