"""``steppe tune``: short runs on held-out data, and a recipe that is whole."""

from __future__ import annotations

import json
from pathlib import Path

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
