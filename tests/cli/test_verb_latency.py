"""steppe latency, as a user sees it; the timer is a formula."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steppe.cli import verb_latency
from steppe.cli.generation_latency import is_language_model
from steppe.cli.main import main
from steppe.removal.latency_table import LatencyTable, measure_table


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Nothing is truly timed; the threads of every measurement."""
    threads: list[int] = []

    def timer(module: nn.Module, inputs: Any) -> tuple[float, float, float]:
        threads.append(torch.get_num_threads())
        return float(sum(p.numel() for p in module.parameters())), 0.0, 0.0

    monkeypatch.setattr(verb_latency, "measure_table", partial(measure_table, timer=timer))
    return threads


def test_a_model_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[int]
) -> None:
    out, before = tmp_path / "table.json", torch.get_num_threads()
    options = ["--batch", "4, 1", "--threads", 3, "--input-size", 16, "--passes", 1]
    run("latency", "resnet20", "--out", out, *options, "--json")
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    table = LatencyTable.read(out)
    assert table.batches == [1, 4]
    assert table.conditions == record["conditions"]
    assert record["conditions"]["threads"] == 3
    assert set(asked) == {3}
    assert torch.get_num_threads() == before
    (network,) = record["networks_ms"].values()
    assert set(network) == {"1", "4"}
    assert record["layers"] == len(table.layers)
    assert f"written to {out}" in shown.err
    assert "network, batch 4: " in shown.err
    assert any(len(held["points"]) > 1 for held in table.layers.values())

    # the same again measures nothing; other threads are refused
    asked.clear()
    run("latency", "resnet20", "--out", out, *options, "--quiet")
    assert asked == []
    assert capsys.readouterr().err == ""
    run("latency", "resnet20", "--out", out, "--threads", 2, code=2)
    assert "got 3 in" in " ".join(capsys.readouterr().err.split())


def test_a_folder_of_an_image_classifier_is_no_language_model(tmp_path: Path) -> None:
    hf = pytest.importorskip("transformers")
    config = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8], depths=[1], layer_type="bottleneck", num_labels=3
    )
    hf.AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path / "net")
    words = ("--batch", 1, "--classes", 3, "--passes", 1, "--quiet", "--out", tmp_path / "t.json")
    run("latency", tmp_path / "net", *words)
    assert LatencyTable.read(tmp_path / "t.json").layers
    for text in ('{"architectures": ["LlamaForCausalLM"]}', "{}", "broken"):
        (tmp_path / "net" / "config.json").write_text(text)
        assert is_language_model(str(tmp_path / "net"))


def test_a_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = ["--data", "digits", "--method", "magnitude", "--sparsity", 0.5, "--epochs", 1]
    folder = tmp_path / "run"
    run("train", "--model", "small-cnn", *trained, "--train-size", 256, "--out", folder, "--quiet")
    capsys.readouterr()
    run("latency", folder, "--batch", 2, "--out", tmp_path / "t.json", "--quiet", "--json")
    assert json.loads(capsys.readouterr().out)["points"] > 1
    for option in ("--input-size", "--classes"):
        run("latency", folder, "--batch", 2, option, 64, "--out", tmp_path / "u.json", code=2)
        assert f"{option} is for a network's name" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "u.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resnet20", "--batch", "1,x"], "way out: --batch 1,64"),
        (["resnet20", "--batch", "0"], "one or more numbers of images"),
        (["resnet20", "--threads", "0"], "--threads is 1 or more"),
        (["resnet20", "--input-size", "0"], "--input-size is 1 or more"),
        (["ssd_small", "--batch", "1"], "got ssd_small without --input-size"),
        (["resnet20", "--passes", "0"], "passes"),
        (["resnet20", "--round-to", "0"], "round_to"),
        (["resnet19"], "did you mean resnet"),
        (["resnet20", "--device", "abacus"], "the device must exist here"),
    ],
)
def test_wrong_input(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.json"
    run("latency", *arguments, "--out", out, code=2)
    assert said.lower() in " ".join(capsys.readouterr().err.split()).lower()
    assert not out.exists()


@pytest.mark.parametrize(("spread", "said"), [(1.0, True), (0.1, False)])
def test_a_loaded_machine_is_said(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    spread: float,
    said: bool,
) -> None:
    timed = partial(measure_table, timer=lambda module, inputs: (1.0, 2.0, spread))
    monkeypatch.setattr(verb_latency, "measure_table", timed)
    options = ["--batch", "1", "--input-size", 16, "--passes", 1]
    run("latency", "resnet20", "--out", tmp_path / "table.json", *options, "--json")
    shown = capsys.readouterr()
    assert ("other programs" in shown.err) == said
    assert json.loads(shown.out)["spread"] == spread / 2
