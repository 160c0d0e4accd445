"""One folder, one recipe, one job at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steppe import SteppeError
from steppe.core.serialization import PARTIAL
from steppe.engine.run_folder import RunFolder

RECIPE = {
    "method": {"name": "safe", "budget": {"name": "uniform", "sparsity": 0.5}},
    "evaluate": {"texts": ["a", "b"]},
    "seed": 0,
}


def claimed(path: Path) -> RunFolder:
    folder = RunFolder(path, RECIPE)
    folder.claim()
    return folder


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"evaluate": {"texts": ["a"]}}, "evaluate.texts"),
        (
            {"method": {"name": "safe", "budget": {"name": "uniform", "sparsity": 0.6}}},
            "method.budget.sparsity",
        ),
        (
            {"method": {"name": "admm", "budget": {"name": "erk"}}},
            "method.budget.name, method.budget.sparsity, method.name",
        ),
        ({"evaluate": None, "more": {"a": 1}}, "evaluate, more"),
        ({"calibration": None}, "calibration"),
    ],
)
def test_another_recipe_is_refused_by_the_inner_name(
    change: dict[str, object], named: str, tmp_path: Path
) -> None:
    claimed(tmp_path)
    with pytest.raises(SteppeError, match=f"whose recipe differs in {named}. Way out"):
        RunFolder(tmp_path, RECIPE | change)
    assert RunFolder(tmp_path, dict(RECIPE)).record is None


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SteppeError, match="new, empty or earlier run's folder"):
        RunFolder(tmp_path, RECIPE)
    with pytest.raises(SteppeError, match="new, empty or earlier run's folder"):
        RunFolder(tmp_path / "thesis.txt", RECIPE)


def test_what_a_killed_run_was_writing_goes(tmp_path: Path) -> None:
    # killed while it wrote the recipe: the folder holds nothing that is a run's
    half = tmp_path / f".recipe.yaml.abc{PARTIAL}"
    half.write_text("meth")
    folder = claimed(tmp_path)
    inner = tmp_path / "checkpoints" / f".journal.json.x{PARTIAL}"
    inner.parent.mkdir()
    inner.write_text("{")
    (tmp_path / ".hidden").write_text("stays")
    with folder.alone():
        assert sorted(p.name for p in tmp_path.rglob("*")) == [
            ".hidden",
            "checkpoints",
            "recipe.yaml",
        ]


def test_one_job_at_a_time(tmp_path: Path) -> None:
    first, second = claimed(tmp_path), RunFolder(tmp_path, RECIPE)
    with (
        first.alone(),
        pytest.raises(SteppeError, match="where another one is at work"),
        second.alone(),
    ):
        pass
    with second.alone():
        pass
    with pytest.raises(KeyError), first.alone():
        raise KeyError
    with first.alone():
        pass


def test_a_record_says_that_it_is_done(tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    folder.finish_record({"a": 1})
    assert RunFolder(tmp_path, RECIPE).record == {"a": 1}
    assert json.loads((tmp_path / "record.json").read_text()) == {"a": 1}
