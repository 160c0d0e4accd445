"""``steppe tune``: short runs on held-out data, and a recipe that is whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from steppe.cli.main import _run
from steppe.experiment.causal_lm.recipe import parse as parse_text
from steppe.experiment.read import read_plain


def test_the_penalty_and_the_rate_of_a_language_model(
    tmp_path: Path, language_model: Path, word_text: Path
) -> None:
    plain = {
        "task": "causal_lm",
        "model": str(language_model),
        "data": {"text": str(word_text), "window": 16},
        "evaluate": str(word_text),
        "method": {"name": "elsa", "sparsity": 0.5, "interval": 2},
        "train": {"tokens": 1024, "batch_size": 4, "precision": "float32"},
        "device": "cpu",
    }
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "tune"
    recipe.write_text(yaml.safe_dump(plain))
    given = ["--over", "train.lr=1e-4,1e-2", "--over", "method.penalty=0.01", "--fraction", "0.25"]
    given += ["--set", "method.sparsity=0.6", "--quiet"]
    assert _run(["tune", str(recipe), "--out", str(out), *given]) == 0
    records = [json.loads(path.read_text()) for path in out.glob("*/record.json")]
    assert len(records) == 2
    for record in records:
        assert record["data"]["tokens"] == 256
        assert list(record["sparse"]["texts"]) == ["held out"]
        assert record["data"]["sources"][0]["held_out"] > 0
    best = min(records, key=lambda r: r["sparse"]["perplexity"])
    data, path = read_plain(out / "tuned.yaml")
    assert set(data) == {"base", "method", "train"}
    found = parse_text(data, str(path), path.parent)
    assert found.train.lr == best["recipe"]["train"]["lr"]
    assert (found.train.tokens, found.data.held_out) == (1024, 0.0)
    assert found.method["sparsity"] == 0.6
    assert found.evaluate.texts == (str(word_text),)


def test_a_word_is_no_number_to_vary(tmp_path: Path, capsys: object) -> None:
    assert _run(["tune", "digits", "--over", "method.penalty", "--out", str(tmp_path / "o")]) == 2
    assert not (tmp_path / "o").exists()


def test_of_few_images_none_is_held_out_by_a_share_and_the_way_out_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = {
        "model": "mlp",
        "data": {"name": "digits", "train_size": 4, "test_size": 4, "num_classes": 10},
        "method": {"name": "gmp", "sparsity": 0.5},
        "train": {"epochs": 1, "lr": 0.1, "batch_size": 2, "bn_batches": 1},
        "device": "cpu",
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(plain))
    given = ["tune", str(recipe), "--over", "train.lr=0.1", "--fraction", "1", "--quiet"]
    assert _run([*given, "--out", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert "got validation=0.1 of 4" in said
    way_out = "--set data.validation=1"
    assert way_out in said
    assert _run([*given, *way_out.split(), "--out", str(tmp_path / "one")]) == 0
