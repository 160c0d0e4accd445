"""steppe.train does what the command does."""

import json
import re

import pytest
import yaml
from safetensors.torch import save_file

import steppe
from steppe import SteppeError
from steppe.cli.main import main
from steppe.experiment.recipe import Recipe, load_recipe
from steppe.vision.models import build

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


def of_five_classes(folder):
    """Weights of the same network, trained on other data."""
    save_file(build("small-cnn", 5, (1, 8, 8)).state_dict(), folder / "model.safetensors")
    return {"name": "small-cnn", "weights": str(folder)}


def test_a_head_that_starts_at_random_is_said_aloud(tmp_path, capsys):
    said = f"{tmp_path} is for 5 classes and the data have 10: linear.weight, linear.bias start"
    recipe = SMALL | {"model": of_five_classes(tmp_path)}
    with pytest.warns(UserWarning, match=re.escape(said)):
        record = steppe.train(recipe)
    assert any(note.startswith(said) for note in record["notes"])
    assert "accuracy" not in record["dense"]  # that of a random head says nothing
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(SystemExit):
        main(["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")])
    assert capsys.readouterr().err.count(f"note: {said}") == 1
    # the run is whole, also when the weights it started from are gone
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(tmp_path / "run"), "--quiet", "--json"])
    assert not ended.value.code
    assert "accuracy" in json.loads(capsys.readouterr().out)


def test_nothing_is_learnt_from_a_random_head(tmp_path):
    method = steppe.methods.gmp(sparsity=0.5).replace(objective="distillation")
    recipe = SMALL | {"model": of_five_classes(tmp_path), "method": method}
    with (
        pytest.warns(UserWarning, match="start at random"),
        pytest.raises(SteppeError, match=r"so its head must be trained.*give its run as weights"),
    ):
        steppe.train(recipe)


def test_a_hub_architecture_trains_from_a_random_start(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], num_labels=10
    )
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "net")
    (tmp_path / "net" / "model.safetensors").unlink()
    recipe = SMALL | {"model": {"name": str(tmp_path / "net"), "pretrained": False}}
    runs = [steppe.train(recipe, out=tmp_path / out) for out in ("a", "b")]
    first, second = ((tmp_path / out / "model.safetensors").read_bytes() for out in ("a", "b"))
    assert first == second
    assert runs[0]["recipe"]["model"]["pretrained"] is False
    distilled = steppe.methods.gmp(sparsity=0.5).replace(objective="distillation")
    with pytest.raises(SteppeError, match="so it must be trained"):
        steppe.train(recipe | {"method": distilled})
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(tmp_path / "a"), "--quiet"])
    assert not ended.value.code
