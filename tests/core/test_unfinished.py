"""A run that was begun and killed, given as a model: every verb says what goes on with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from steppe.cli.main import main
from steppe.core.errors import SteppeError
from steppe.core.unfinished import check_finished, goes_on

VERBS = {
    "prune": ["--method", "wanda", "--sparsity", "0.5"],
    "plan": ["--method", "slim", "--target", "parameters=0.7"],
    "bench": [],
    "recover": ["--calibration", "text.txt"],
    "report": [],
    "remove": ["--out", "other"],
    "evaluate": ["--on", "perplexity", "--text", "text.txt"],
    "latency": ["--out", "table.json"],
    "train": ["--method", "gmp", "--sparsity", "0.5", "--data", "text.txt"],
}
CALLS = [
    *VERBS.items(),
    *(("export", ["--to", to, "--out", "other"]) for to in ("gguf", "compact")),
]


def begun(folder: Path, recipe: object) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.mark.parametrize(("verb", "more"), CALLS)
@pytest.mark.parametrize("method", ["slim", "wanda"])
def test_every_verb_says_which_command_goes_on(
    verb: str,
    more: list[str],
    method: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("a few words " * 100)
    recipe = {"model": {"name": "models/llama"}, "method": {"name": method}, "calibration": None}
    begun(Path("runs/begun"), recipe)
    with pytest.raises(SystemExit) as ended:
        main([verb, "runs/begun", *more])
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2
    assert "finished" in said
    assert f"steppe prune models/llama --method {method} ... --out runs/begun" in said


def test_the_command_is_that_of_the_recipe(tmp_path: Path) -> None:
    whole = begun(tmp_path / "whole", {"train": {"epochs": 1}, "method": {"name": "gmp"}})
    assert f"steppe train {whole}/recipe.yaml --out {whole}" in goes_on(whole)
    plain = {"model": {"name": "runs/slim"}, "method": {"name": "slim"}, "dense": {"name": "llama"}}
    assert "steppe recover runs/slim ... --out" in goes_on(begun(tmp_path / "back", plain))
    for number, other in enumerate(({}, ["a"], {"model": "tiny"})):
        folder = begun(tmp_path / str(number), other)
        assert "the command that began it" in goes_on(folder)


def test_what_is_finished_or_no_run_passes(tmp_path: Path) -> None:
    check_finished(tmp_path)
    folder = begun(tmp_path / "run", {})
    with pytest.raises(SteppeError, match="not finished"):
        check_finished(folder)
    (folder / "record.json").write_text("{}")
    check_finished(folder)
