"""Folders of runs that were begun before some options were there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import steppe
from steppe.core.errors import SteppeError
from steppe.core.serialization import load_state, save_state
from steppe.engine.run_folder import LAST, PREVIOUS, RunFolder
from steppe.experiment.image_run import trained
from steppe.experiment.recipe import parse

STORED = Path(__file__).parent / "stored"
"""What an earlier version (b1ca023) wrote into the folders of small runs."""
NAMES = sorted(path.stem for path in STORED.glob("*.yaml"))
OPTIONS = {
    "safe": {"penalty": 1e-3, "interval": 32},
    "safe_plus": {"penalty": 1e-3, "interval": 32, "score": "fisher"},
    "admm": {"penalty": 1e-3, "interval": 32},  # penalty_schedule was constant, and is null now
    "adasap": {"every": 2, "warmup": 0.1, "pruned": 0.5},
    "taylor": {"every": 2},
}
"""What has to be said today for the same run."""


def stored(name: str) -> dict[str, Any]:
    text: dict[str, Any] = yaml.safe_load((STORED / f"{name}.yaml").read_text())
    return text


def folder_of(name: str, path: Path) -> Path:
    path.mkdir()
    shutil.copy(STORED / f"{name}.yaml", path / "recipe.yaml")
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_takes_the_recipe_that_it_holds(name: str, tmp_path: Path) -> None:
    recipe = parse(stored(name))
    recipe.build_method()
    folder = RunFolder(folder_of(name, tmp_path / "run"), recipe.plain(), recipe.as_today)
    assert folder.stored == stored(name)
    other = recipe.model_copy(update={"seed": 1})
    with pytest.raises(SteppeError, match=r"differs in seed\. .*/recipe\.yaml --out .* its own"):
        RunFolder(tmp_path / "run", other.plain(), other.as_today)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_same_options_are_the_same_run(name: str, tmp_path: Path) -> None:
    recipe = parse(stored(name) | {"method": {"name": name, "sparsity": 0.5} | OPTIONS[name]})
    folder = RunFolder(folder_of(name, tmp_path / "run"), recipe.plain(), recipe.as_today)
    assert not folder.resumable


def test_what_is_no_recipe_differs(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("calibration: text\nseed: 0\n")
    recipe = parse(stored("safe"))
    with pytest.raises(SteppeError, match=r"one run; got .*, a run of steppe prune"):
        RunFolder(tmp_path, recipe.plain(), recipe.as_today)


def finished(name: str, path: Path) -> Path:
    steppe.train(stored(name), out=folder_of(name, path))
    return path


def half_done(name: str, path: Path, *known_later: str) -> Path:
    """A folder as an earlier version left it after one epoch, which knew fewer options."""
    path = finished(name, path)
    for file in ("record.json", "model.safetensors", "masks.safetensors"):
        (path / file).unlink()
    (path / "checkpoints" / PREVIOUS).replace(path / "checkpoints" / LAST)
    state = load_state(path / "checkpoints" / LAST)
    for option in known_later:
        *parts, last = option.split(".")
        place = state["sparsifier"]["method"]
        for key in parts:
            place = place[int(key) if key.isdigit() else key]
        del place[last]
    save_state(path / "checkpoints" / LAST, state)
    return path


CHANGED = {
    "gmp-sam": (["perturb.on"], "sam moved weights that hard_mask holds at zero"),
    "adasap": (
        [
            f"perturb.phases.{p}.1.{o}"
            for p, o in ((0, "on"), (0, "psi"), (0, "rho_rest"), (1, "on"))
        ],
        "radii came from the output layer too.*; asam moved weights that hard_mask",
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_half_done_run_does_not_go_on_by_another_rule(name: str, tmp_path: Path) -> None:
    later, said = CHANGED[name]
    half = half_done(name, tmp_path / "run", *later)
    with pytest.raises(SteppeError, match=f"rule that it began with; got {half}: .*{said}") as no:
        steppe.train(stored(name), out=half)
    assert "another --out" in str(no.value)
    assert "\n" not in str(no.value)


def test_a_half_done_run_goes_on_where_the_rule_is_the_same(tmp_path: Path) -> None:
    """ADMM holds nothing at zero, so that SAM moves what it moved before."""
    half = half_done("safe", tmp_path / "run", "perturb.on", "coupling.pull")
    record = steppe.train(stored("safe"), out=half)
    assert "resumed after step 4 of 8" in record["notes"]
    whole = json.loads((finished("safe", tmp_path / "whole") / "record.json").read_text())
    assert record["sparse"]["accuracy"] == whole["sparse"]["accuracy"]


@pytest.mark.parametrize("name", ["taylor", "adasap"])
def test_a_finished_run_is_read_by_the_verbs(name: str, tmp_path: Path) -> None:
    run = finished(name, tmp_path / "run")
    shutil.copy(STORED / f"{name}.yaml", run / "recipe.yaml")  # as the earlier version wrote it
    assert steppe.train(stored(name), out=run) == json.loads((run / "record.json").read_text())
    recipe, _, _ = trained(run)
    assert recipe.build_method().score.to_dict()["name"] in ("taylor", "l2")
