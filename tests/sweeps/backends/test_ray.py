"""ray: a killed sweep of two workers, finished by the same command; what machines have."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from nursery import KILLED, Nursery
from steppe import SteppeError
from steppe.sweeps.backends import Resources
from steppe.sweeps.backends.ray import Ray, _shares

RECIPE = """
model: mlp
data: {name: digits, train_size: 200, test_size: 100}
method: {name: gmp, sparsity: 0.5}
train: {epochs: 2, batch_size: 50, lr: 0.1, checkpoint_steps: 1}
device: cpu
"""
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed: steppe[sweep]"
)


def weights(out: Path) -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in out.glob("*/model.safetensors")}


@needs_ray
def test_killed_with_two_workers_and_started_again_it_ends_as_one_after_another(
    tmp_path: Path,
) -> None:
    recipe, plain, out = tmp_path / "recipe.yaml", tmp_path / "plain", tmp_path / "out"
    recipe.write_text(RECIPE)
    common = ["sweep", str(recipe), "--vary", "train.lr=0.03,0.05,0.1", "--quiet", "--out"]
    on_ray = [*common, str(out), "--on", "ray", "--workers", "2", "--cpus", "1"]
    with Nursery("steppe.experiment.experiment", "steppe.sweeps.sweep") as nursery:
        assert nursery.run([*common, str(plain)], plain)["code"] == 0
        # the first dozen of its own operations are the start; then it writes what a run left
        killed = nursery.run(on_ray, out, kill=14)
        assert killed["code"] == KILLED, killed["said"]
        states = [run["state"] for run in json.loads((out / "sweep.json").read_text())["runs"]]
        assert "waiting" in states
        again = nursery.run(on_ray, out)
    assert again["code"] == 0, again["said"]
    states = [run["state"] for run in json.loads((out / "sweep.json").read_text())["runs"]]
    assert states == ["done"] * 3
    assert len(weights(out)) == 3
    assert weights(out) == weights(plain)


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SteppeError, match=r"pip install 'steppe\[sweep\]'"):
        Ray.check(Resources())


def test_a_run_gets_its_share_of_a_machine() -> None:
    two = [{"CPU": 16.0}, {"CPU": 8.0}]
    assert _shares(two, Resources())[0] == 2, "one on each"
    assert _shares(two, Resources(workers=3))[1]["num_cpus"] == 4, "two on the smaller one too"
    gpus = [{"CPU": 16.0, "GPU": 4.0}, {"CPU": 64.0}]
    workers, kept = _shares(gpus, Resources())
    assert (workers, kept["num_cpus"], kept["num_gpus"]) == (4, 4, 1)
    assert _shares(gpus, Resources(gpus=0.5))[0] == 8


@pytest.mark.parametrize("asked", [Resources(gpus=1), Resources(cpus=9)])
def test_what_no_machine_has_is_refused(asked: Resources) -> None:
    with pytest.raises(SteppeError, match="a machine must have"):
        _shares([{"CPU": 8.0}, {"CPU": 4.0}], asked)
