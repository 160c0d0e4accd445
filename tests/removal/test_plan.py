"""A plan cuts a fresh model alike, in a fresh process, without pickle."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from steppe.core.errors import SteppeError
from steppe.removal.dependency_graph import traced_groups
from steppe.removal.example import example_of
from steppe.removal.plan import TEXT, WEIGHTS, Plan, load_removed, save_removed
from steppe.removal.remove import remove
from steppe.vision.models import build

FRESH = """
import sys
from safetensors.torch import load_file, save_file
from steppe.removal.plan import load_removed
from steppe.vision.models import build
folder = sys.argv[1]
model = load_removed(folder, lambda: build("resnet20", 10))
out = model(load_file(folder + "/inputs.safetensors")["x"])
save_file({"y": out.detach().contiguous()}, folder + "/outputs.safetensors")
"""


@pytest.fixture
def done(networks):
    model = networks.warm(build("resnet20", 10))
    groups = traced_groups(model, torch.zeros(1, 3, 32, 32))
    networks.zero(model, groups, networks.draw(groups))
    return remove(model, torch.zeros(1, 3, 32, 32), groups=groups)


def test_a_fresh_process_computes_the_same(done, tmp_path):
    save_removed(tmp_path, done.model, done.plan)
    x = torch.randn(2, 3, 32, 32)
    save_file({"x": x}, tmp_path / "inputs.safetensors")
    subprocess.run([sys.executable, "-c", FRESH, str(tmp_path)], check=True)
    y = load_file(tmp_path / "outputs.safetensors")["y"]
    with torch.no_grad():
        torch.testing.assert_close(y, done.model(x), rtol=1e-6, atol=1e-6)


def test_a_plan_comes_back_as_it_was(done, tmp_path):
    done.plan.save(tmp_path)
    again = Plan.load(tmp_path)
    assert again.meta == done.plan.meta
    assert again.meta["removed"] == done.report["removed"]
    assert again.stays.keys() == done.plan.stays.keys()
    for name, dims in done.plan.stays.items():
        assert again.stays[name].keys() == dims.keys()
        assert all(torch.equal(again.stays[name][dim], index) for dim, index in dims.items())
    assert {path.name for path in tmp_path.iterdir()} == {TEXT, "removal.safetensors"}


@pytest.mark.parametrize("name", ["bert", "gpt2", "opt", "llama", "gpt_neox"])
def test_transformers_that_no_config_can_say(networks, tmp_path, name):
    make = networks.transformers_models()[name]
    model = networks.warm(make())
    from steppe.removal.transformer_groups import transformer_groups

    groups = transformer_groups(model)
    networks.zero(model, groups, networks.draw(groups, 0.4))
    done = remove(model, groups=groups)
    save_removed(tmp_path, done.model, done.plan)
    again = load_removed(tmp_path, make)
    inputs = example_of(again)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, done.model(**inputs).logits)


def test_two_removals_are_one_plan(networks, done, tmp_path):
    groups = traced_groups(done.model, torch.zeros(1, 3, 32, 32))
    networks.zero(done.model, groups, networks.draw(groups, 0.3, seed=3))
    second = remove(done.model, torch.zeros(1, 3, 32, 32), groups=groups)
    both = done.plan.then(second.plan)
    save_removed(tmp_path, second.model, both)
    again = load_removed(tmp_path, lambda: build("resnet20", 10))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(x), second.model(x))
    first, later = done.report["removed"], second.report["removed"]
    assert both.meta["removed"]["conv1.weight"] == first["conv1.weight"] + later["conv1.weight"]


def test_models_that_the_plan_does_not_fit(done, tmp_path):
    save_removed(tmp_path, done.model, done.plan)
    with pytest.raises(SteppeError, match="apply the plan once"):
        done.plan.apply(done.model)
    wide = build("resnet20", 10, width=2)
    with pytest.raises(SteppeError, match="Nothing was changed") as error:
        load_removed(tmp_path, lambda: wide)
    assert "\n" not in str(error.value)
    assert wide.conv1.out_channels == 32
    with pytest.raises(SteppeError, match=r"linear\.weight: \[7, 64\]"):
        load_removed(tmp_path, lambda: build("resnet20", 7))


def test_folders_that_hold_no_plan(done, tmp_path):
    with pytest.raises(SteppeError, match=f"without {TEXT}"):
        Plan.load(tmp_path)
    done.plan.save(tmp_path)
    with pytest.raises(SteppeError, match=WEIGHTS):
        load_removed(tmp_path, lambda: build("resnet20", 10))
    text = json.loads((tmp_path / TEXT).read_text())
    text["stays"]["linear.weight"] = {"1": 3}
    (tmp_path / TEXT).write_text(json.dumps(text))
    with pytest.raises(SteppeError, match="must be of one plan"):
        Plan.load(tmp_path)
