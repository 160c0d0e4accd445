"""What steppe train says of a finished run of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steppe.cli.training.detection import DetectionTraining
from steppe.cli.training.image import ImageTraining, _show


def record(method: str, **more: Any) -> dict[str, Any]:
    sizes = {"accuracy": 0.9, "bytes": 400, "bytes_packed": 400, "parameters": 100, "nonzero": 100}
    return {
        "method": method,
        "sparsity_asked": 0.4,
        "sparsity_reached": 0.41,
        "sparsity_of_all": 0.41,
        "dense": sizes | {"latency_ms": 5.8},
        "sparse": sizes | {"latency_ms": 7.7, "bytes_packed": 240},
        "seconds": 1.0,
        "parts": {"coupling": {"name": "hard_mask"}, "perturb": {"name": "none"}},
        "notes": [],
        "before_projection": {},
        "recipe": {"model": {"name": "small-cnn"}, "data": {"name": "digits"}},
        "gain": "one image is 1.27x as fast as dense",
    } | more


def said(run: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    _show(ImageTraining, run, Path("out"), False, [])
    return capsys.readouterr().err


def test_no_pair_of_times_contradicts_the_ratio_of_the_turns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = said(record("adasap"), capsys)
    assert "one input takes 7.70 ms" in text
    assert "5.8" not in text
    assert "bytes 400 -> 240 (packed)" in text


def test_a_dense_run_is_compared_with_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(record("dense"), capsys)
    assert "->" not in text
    assert "bytes 400, " in text


@pytest.mark.parametrize(
    ("target", "words"),
    [("latency", "41.00% less latency"), ("flops", "41.00% fewer multiply-adds")],
)
def test_a_budget_is_called_by_its_name(
    target: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = record("halp")["recipe"] | {"channels": {"target": target}}
    run = record("halp", recipe=recipe, removed={"target": "ms"})
    assert words in said(run, capsys)


def test_channels_that_are_zero_are_not_called_gone(capsys: pytest.CaptureFixture[str]) -> None:
    pair = {"parameters": [100, 60], "flops": [100, 60], "channels": 3, "speed": {}}
    recipe = record("halp")["recipe"] | {"channels": {"target": "flops"}}
    run = record("halp", recipe=recipe, removed=pair)
    for line in said(run, capsys).splitlines()[:2]:
        assert "without the channels that are zero" in line, line
    for training in (ImageTraining, DetectionTraining):
        assert "steppe remove runs/a --out OUT" in training.more("runs/a", run)
        whole = run | {"removed": pair | {"parameters": [100, 100]}}
        assert "steppe remove" not in training.more("runs/a", whole)
        assert "steppe remove" not in training.more("runs/a", record("dense"))
