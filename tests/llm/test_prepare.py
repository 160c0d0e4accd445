"""In which precision blocks are optimised: measured once, then kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from steppe.core.errors import SteppeError
from steppe.engine.run_folder import RunFolder
from steppe.llm import prepare
from steppe.llm.prepare import PreparedPruning
from steppe.llm.prune import run
from steppe.llm.prune_config import PruneConfig
from steppe.methods import make


def prepared(model: Path, out: Path, method: str = "safe", **options: Any) -> PreparedPruning:
    config = PruneConfig.of(out=out, device="cpu", **options)
    return PreparedPruning(model, make(method, sparsity=0.5), config)


def precision(made: PreparedPruning) -> str:
    return made.walk_config.reconstruction.precision


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What was asked to be measured; bfloat16 is twice as fast until this is changed."""
    asked: list[tuple[int, int]] = []

    def ratio(device: str, rows: int, width: int) -> float:
        asked.append((rows, width))
        return 2.0

    monkeypatch.setattr(prepare, "bfloat16_ratio", ratio)
    return asked


def slow(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    monkeypatch.setattr(prepare, "bfloat16_ratio", lambda *_: ratio)


def test_bfloat16_is_taken_where_it_is_faster(
    language_model: Path,
    tmp_path: Path,
    measured: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = prepared(language_model, tmp_path / "a", window=16, micro_batch=4)
    assert precision(made) == "bfloat16"
    assert measured == [(64, 12)]
    for ratio in (1.05, 0.1):
        slow(monkeypatch, ratio)
        assert precision(prepared(language_model, tmp_path / "a")) == "float32"


def test_nothing_is_measured_where_nothing_is_optimised(
    language_model: Path, tmp_path: Path, measured: list[tuple[int, int]]
) -> None:
    assert precision(prepared(language_model, tmp_path / "a", "magnitude")) == "float32"
    assert precision(prepared(language_model, tmp_path / "a", precision="float32")) == "float32"
    assert measured == []


def test_a_run_that_goes_on_keeps_its_precision(
    language_model: Path,
    tmp_path: Path,
    measured: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = prepared(language_model, tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(first.recipe))
    slow(monkeypatch, 0.1)
    again = prepared(language_model, tmp_path)
    assert precision(again) == "bfloat16"
    assert again.recipe == first.recipe
    (tmp_path / "recipe.yaml").write_text("a: [")
    assert precision(prepared(language_model, tmp_path)) == "float32"


def test_who_insists_is_told_what_it_costs(
    language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.125)
    made = prepared(language_model, tmp_path, precision="bfloat16")
    assert precision(made) == "bfloat16"
    assert made.notes == [
        "bfloat16 takes 8.0 times as long as float32 here; --precision auto would not take it"
    ]


def as_before(made: PreparedPruning) -> dict[str, Any]:
    """The recipe as a version stored it that did not know these options."""
    stored: dict[str, Any] = json.loads(json.dumps(made.recipe))
    for axis, option in (("coupling", "pull"), ("perturb", "on"), ("objective", "held_out")):
        stored["method"][axis].pop(option, None)
    return stored


def test_a_folder_of_before_some_options_takes_its_recipe(
    language_model: Path, tmp_path: Path
) -> None:
    made = prepared(language_model, tmp_path, "admm", precision="float32")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(as_before(made)))
    folder = RunFolder(tmp_path, made.recipe, made.as_today)
    made.check_goes_on(folder.stored)
    other = prepared(language_model, tmp_path, "admm", precision="float32", seed=1)
    with pytest.raises(SteppeError, match="differs in seed"):
        RunFolder(tmp_path, other.recipe, other.as_today)


def test_blocks_of_another_rule_are_not_gone_on_from(language_model: Path, tmp_path: Path) -> None:
    made = prepared(language_model, tmp_path, precision="float32")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(as_before(made)))
    folder = RunFolder(tmp_path, made.recipe, made.as_today)
    said = "sam moved weights that hard_mask holds.*no windows held out.*another --out"
    with pytest.raises(SteppeError, match=said):
        made.check_goes_on(folder.stored)


def test_an_end_that_is_left_is_done_whatever_the_blocks_rule_was(
    language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    """As in a training: no block is left for another rule."""

    def asked() -> PreparedPruning:
        fit = {"epochs": 1, "warmup_epochs": 0.0}
        sizes: dict[str, Any] = {"samples": 2, "window": 16, "reconstruction": fit}
        text = {"calibration": word_text, "precision": "float32"}
        return prepared(language_model, tmp_path / "out", **sizes, **text)

    earlier = run(asked())
    (tmp_path / "out/record.json").unlink()
    (tmp_path / "out/recipe.yaml").write_text(yaml.safe_dump(as_before(asked())))
    assert run(asked())["blocks"] == earlier["blocks"]


def test_windows_may_be_those_that_the_model_writes(language_model: Path, tmp_path: Path) -> None:
    options = {"calibration": "self:0.9:10", "samples": 4, "window": 16}
    made = prepared(language_model, tmp_path / "a", "sparsegpt", **options)
    assert made.tokens is not None
    assert made.tokens.shape == (4, 16)
    said = made.recipe["calibration"]
    assert (said["source"], said["temperature"], said["top_k"]) == ("self:0.9:10", 0.9, 10)
    assert run(made)["calibration"] == said
    again = prepared(language_model, tmp_path / "a", "sparsegpt", **options)
    assert again.recipe == made.recipe
