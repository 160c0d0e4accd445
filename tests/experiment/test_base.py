"""A recipe on top of another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from steppe import recipes
from steppe.core.errors import SteppeError
from steppe.experiment.base import whole
from steppe.experiment.recipe import load_recipe, read

BASE = {
    "name": "below",
    "model": {"name": "resnet20", "options": {"width": 2, "shortcut": "B"}},
    "data": "digits",
    "method": {"name": "safe", "sparsity": 0.9, "rho": 0.3},
    "exclude": ["conv1"],
    "train": {"epochs": 3, "optimizer_groups": [{"kind": ["norm"], "weight_decay": 0}]},
}


def write(path: Path, data: Any) -> Path:
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def test_what_a_recipe_does_not_say_is_its_bases(tmp_path: Path) -> None:
    write(tmp_path / "below.yaml", BASE)
    own: dict[str, Any] = {"base": "below.yaml", "name": "above", "train": {"lr": 1.0}}
    own["method"] = {"name": "safe", "sparsity": 0.5}  # the base's name may be said again
    made = read(write(tmp_path / "above.yaml", own))
    assert (made.name, made.data.name, made.exclude) == ("above", "digits", ("conv1",))
    assert made.method == {"name": "safe", "sparsity": 0.5, "rho": 0.3}
    assert (made.train.epochs, made.train.lr) == (3, 1.0)
    assert made.model.options == {"width": 2, "shortcut": "B"}
    # whole in the run's folder: it does not lean on the base
    assert "base" not in made.plain()


def test_another_name_takes_nothing_of_the_bases_options(tmp_path: Path) -> None:
    write(tmp_path / "below.yaml", BASE)
    own = {
        "base": "below.yaml",
        "model": "vgg19-bn",
        "method": {"name": "gmp", "sparsity": 0.5},
        "train": {"optimizer_groups": []},
        "data": {"label_noise": {"rate": 0.5}},
    }
    made = read(write(tmp_path / "above.yaml", own))
    assert (made.model.name, made.model.options) == ("vgg19-bn", {})
    assert made.method == {"name": "gmp", "sparsity": 0.5}
    assert made.train.optimizer_groups == ()
    assert made.data.name == "digits"  # a name alone is a mapping
    assert made.data.label_noise is not None


def test_bases_have_bases_each_where_its_own_file_lies(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "one.yaml", BASE)
    write(tmp_path / "in" / "two.yaml", {"base": "one.yaml", "seed": 5})
    made = read(write(tmp_path / "three.yaml", {"base": "in/two.yaml", "device": "cpu"}))
    assert (made.seed, made.device, made.train.epochs) == (5, "cpu", 3)
    assert load_recipe({"base": "digits", "seed": 3}).train.epochs == 60


def test_bases_that_cannot_be(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", {"base": "b.yaml"})
    write(tmp_path / "b.yaml", {"base": "a.yaml"})
    with pytest.raises(SteppeError, match=r"no base of itself.*b\.yaml -> .*a\.yaml -> .*b\.yaml"):
        read(tmp_path / "a.yaml")
    for base in ("nowhere.yaml", 3, "safe"):
        with pytest.raises(SteppeError, match=r"base is the name of a recipe .*steppe recipes"):
            whole({"base": base}, tmp_path)
    write(tmp_path / "list.yaml", [1])
    with pytest.raises(SteppeError, match="a base must be a mapping"):
        whole({"base": "list.yaml"}, tmp_path)
    (tmp_path / "bad.yaml").write_text("{")
    with pytest.raises(SteppeError, match="a base must be a readable recipe"):
        whole({"base": "bad.yaml"}, tmp_path)
    with pytest.raises(SteppeError, match="basis"):
        load_recipe({"basis": "digits", "method": "safe"})


def test_a_copied_recipe_brings_its_bases_along(tmp_path: Path) -> None:
    name = "adasap/imagenet-resnet50-by-taylor"
    written = recipes.copy(name, tmp_path)
    assert [file.name for file in written] == [
        "imagenet-resnet50-by-taylor.yaml",
        "imagenet-resnet50-without-asam.yaml",
        "imagenet-resnet50.yaml",
    ]
    (tmp_path / "imagenet-resnet50.yaml").write_text(
        written[2].read_text().replace("epochs: 90", "epochs: 7")
    )
    made = read(written[0])
    assert made.train.epochs == 7
    assert made.method["score"] == "taylor"
