"""steppe export, as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from steppe.cli.main import main

transformers = pytest.importorskip("transformers")


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


@pytest.fixture
def pruned(tmp_path: Path) -> Path:
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.mul_(torch.rand_like(weight) > 0.5)
    model.save_pretrained(tmp_path / "run")
    return tmp_path / "run"


def test_compact(pruned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    run("export", pruned, "--to", "compact", "--out", tmp_path / "out", "--json")
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert f"{record['bytes_before']} -> {record['bytes_after']} bytes" in shown.err
    assert "logits bit for bit" in shown.err
    assert record["verified"]["logits"] is True
    assert 0 < record["ratio"] < 0.95, "much of so small a model is embeddings and headers"
    # the same again is the same
    run("export", pruned, "--to", "compact", "--out", tmp_path / "out", "--quiet")
    assert json.loads((tmp_path / "out/export.json").read_text())["ratio"] == record["ratio"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "2:4", "--device", "cpu"], "there is no gain"),
        (["--to", "2:5"], "known: 2:4, compact"),
        (["--to", "compact", "--tokens", "1"], "unknown option of --to compact"),
        (["--to", "2:4", "--tokens", "0"], "whole numbers"),
    ],
)
def test_what_cannot_be_is_one_line(
    pruned: Path,
    tmp_path: Path,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    run("export", pruned, "--out", tmp_path / "out", *arguments, code=2)
    shown = capsys.readouterr().err.strip()
    assert said in shown
    assert "\n" not in shown
    assert not (tmp_path / "out").exists()


def test_other_folders_are_refused(
    pruned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("export", tmp_path, "--to", "compact", "--out", tmp_path / "out", code=2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("x")
    run("export", pruned, "--to", "compact", "--out", tmp_path / "full", code=2)
    assert "--out must be" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_gguf(pruned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf")
    out = ["--to", "gguf", "--out", tmp_path / "out"]
    run("export", pruned, *out, code=2)
    assert "--tokenizer none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    run("export", pruned, *out, "--tokenizer", "none", "--dtype", "f16", "--json")
    shown = capsys.readouterr()
    assert json.loads(shown.out)["dtype"] == "f16"
    assert "nothing is smaller or faster by them" in shown.err
    assert (tmp_path / "out/model.gguf").is_file()
