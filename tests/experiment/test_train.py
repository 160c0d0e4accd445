"""steppe.train does what the command does."""

import json

import pytest
import yaml

import steppe
from steppe import SteppeError
from steppe.cli.main import main
from steppe.experiment.recipe import Recipe, load_recipe

SMALL = {
    "model": "small-cnn",
    "data": {"name": "digits", "train_size": 128, "test_size": 64},
    "method": {"name": "safe", "sparsity": 0.8, "interval": 1},
    "train": {"epochs": 2, "batch_size": 64, "bn_batches": 1},
    "device": "cpu",
}
KEYS = ("method", "recipe", "sparsity_asked", "sparsity_reached", "seed", "units_zeroed")


def test_every_form_of_a_recipe_gives_the_same_run(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(SMALL))
    forms = (SMALL, file, str(file), Recipe(**SMALL))
    records = [steppe.train(form) for form in forms]
    for record in records[1:]:
        assert {k: record[k] for k in KEYS} == {k: records[0][k] for k in KEYS}
        assert record["sparse"]["accuracy"] == records[0]["sparse"]["accuracy"]


def test_it_leaves_the_folder_that_the_command_leaves(tmp_path):
    record = steppe.train(SMALL, out=tmp_path / "python")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(SMALL))
    with pytest.raises(SystemExit) as ended:
        main(["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "shell"), "--quiet"])
    assert not ended.value.code
    python, shell = ({p.name for p in (tmp_path / w).iterdir()} for w in ("python", "shell"))
    assert python == shell - {"report.html"}
    for name in ("model.safetensors", "masks.safetensors", "recipe.yaml"):
        both = [(tmp_path / where / name).read_bytes() for where in ("python", "shell")]
        assert both[0] == both[1], name
    assert json.loads((tmp_path / "python" / "record.json").read_text()) == record


def test_a_finished_run_is_read_and_not_done_again(tmp_path):
    first = steppe.train(SMALL, out=tmp_path / "run")
    weights = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    assert steppe.train(SMALL, out=str(tmp_path / "run")) == first
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == weights
    with pytest.raises(SteppeError, match="one recipe"):
        steppe.train(SMALL | {"seed": 1}, out=tmp_path / "run")


def test_recipes_that_come_with_steppe_are_known_by_name():
    assert load_recipe("digits").data.name == "digits"
    with pytest.raises(SteppeError, match="steppe recipes lists"):
        load_recipe("digit")


def test_any_part_of_a_method_may_be_exchanged_in_a_recipe():
    method = {"name": "gmp", "sparsity": 0.8, "coupling": "project", "perturb": "sam"}
    built = load_recipe(SMALL | {"method": method}).build_method()
    assert built.coupling.name == "project"
    assert built.perturb.name == "sam"
    assert built.schedule == steppe.methods.gmp(sparsity=0.8).schedule


def test_a_method_is_taken_as_it_is():
    method = steppe.methods.safe(sparsity=0.8).replace(perturb="none")
    built = load_recipe(SMALL | {"method": method}).build_method()
    assert built == method.replace(language=())
