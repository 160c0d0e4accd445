"""steppe train with the recipe of a recovery, as a user sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steppe import methods, prune, recover
from steppe.cli.main import main


def run(*arguments: Any, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


def test_the_recipe_of_a_recovery_is_one_for_steppe_train(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, pruned, first = str(word_text), tmp_path / "p", tmp_path / "first"
    prune(language_model, methods.magnitude(sparsity=0.5), None, pruned, device="cpu")
    asked = {"window": 16, "tokens": 512, "parts": 2, "held_out": 0.05, "device": "cpu"}
    recover(pruned, text, first, scope="whole", evaluate=[text], **asked)
    again = ["train", first / "recipe.yaml", "--lr", 1e-2, "--out", tmp_path / "again"]
    run(*again)
    said = capsys.readouterr().err
    assert "recovered" in said
    assert (tmp_path / "again" / "record.json").exists()
    run(*again)
    assert "finished before" in capsys.readouterr().err
    run(*again, "--method", "safe", code=2)
    assert "--method is for training of task" in capsys.readouterr().err
