"""A detector trained by a recipe: its record, a kill in the middle, what is refused."""

import json

import pytest
import torch

import steppe
import voc_folder
from detector_losses import losses
from steppe import SteppeError
from steppe.experiment.detection.recipe import parse
from steppe.experiment.image_run import of_detection, trained, was_trained
from steppe.experiment.tasks import TASKS, task_of
from steppe.vision.detection.loader import DetectionLoader


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return voc_folder.write(tmp_path_factory.mktemp("voc") / "voc")


def recipe(root, **changes):
    plain = {
        "task": "detection",
        "model": {"name": "ssd_small", "options": {"width": 0.5}},
        "data": {"name": f"voc:{root}", "size": 96, "augment": "mirror"},
        "method": {"name": "gmp", "sparsity": 0.5},
        "train": {"epochs": 3, "batch_size": 4, "lr": 0.01, "bn_batches": 1, "eval_every": 0},
        "device": "cpu",
    }
    return {
        key: value | changes.pop(key, {}) if isinstance(value, dict) else value
        for key, value in plain.items()
    } | changes


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, steppe.train(recipe(root), out=folder)


def test_the_record_says_how_good_it_is_in_every_class(run):
    folder, record = run
    assert json.loads((folder / "record.json").read_text()) == record
    sparse = record["sparse"]
    assert set(sparse["classes"]) == {"bar", "square"}
    for name in ("map", "map50", "map50_11"):
        values = [own[name] for own in sparse["classes"].values()]
        assert sparse[name] == pytest.approx(sum(values) / 2)
        assert 0 <= sparse[name] <= 1
    assert record["sparsity_reached"] == pytest.approx(0.5, abs=0.01)
    assert record["recipe"]["task"] == "detection"
    assert not record["fallbacks"]


class Killed(Exception):
    pass


def test_killed_and_resumed_it_ends_with_the_same_bits(root, run, tmp_path, monkeypatch):
    whole, epoch = DetectionLoader.epoch, []

    def dying(self, number, start=0):
        for place, batch in enumerate(whole(self, number, start)):
            if number == 1 and start + place == 1 and self.shuffle and not epoch:
                epoch.append(number)
                raise Killed
            yield batch

    monkeypatch.setattr(DetectionLoader, "epoch", dying)
    with pytest.raises(Killed):
        steppe.train(recipe(root, train={"checkpoint_steps": 1}), out=tmp_path / "run")
    again = steppe.train(recipe(root, train={"checkpoint_steps": 1}), out=tmp_path / "run")
    assert any("resumed after step 3" in note for note in again["notes"])
    for name in ("model.safetensors", "masks.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (run[0] / name).read_bytes()


def test_a_finished_run_is_opened_with_its_weights(run):
    folder, _ = run
    assert of_detection(folder)
    assert was_trained(folder / "recipe.yaml")
    made, data, model = trained(folder)
    assert made.task == "detection"
    assert data.classes == ("bar", "square")
    assert not model.training
    zeros = sum(int((p == 0).sum()) for p in model.parameters() if p.ndim == 4)
    assert zeros / sum(p.numel() for p in model.parameters() if p.ndim == 4) > 0.4


def test_workers_are_no_part_of_what_a_run_is(root, run):
    folder, record = run
    assert steppe.train(recipe(root, data={"workers": 2}), out=folder) == record


def test_channels_go_by_their_multiply_adds(root):
    method = {"name": "taylor", "sparsity": 0.4, "every": 1}
    plain = recipe(root, train={"epochs": 2}) | {"method": method}
    record = steppe.train(plain | {"channels": {"target": "flops", "round_to": 1}})
    assert record["removed"]["error"] < 1e-5
    before, after = record["removed"]["flops"]
    assert after / before == pytest.approx(0.6, abs=0.02)
    assert "latency_ms_64" not in record["sparse"]


def test_it_learns_what_there_is():
    """On one image whose loss falls by more than half in a few steps."""
    from steppe.vision.detection.models import build
    from steppe.vision.detection.targets import padded

    torch.manual_seed(0)
    model = build("ssd_small", 1, (3, 96, 96), width=0.5)
    x = torch.randn(1, 3, 96, 96)
    y = padded([torch.tensor([[0.2, 0.2, 0.6, 0.6, 0, 0]])])
    fell = losses(model, model.reading, x, y, 12, torch.optim.SGD, momentum=0.9)
    assert fell[-1] < fell[0] / 2


def test_the_task_is_known_by_its_name():
    plain = {"task": "detection", "data": "voc:x", "method": "gmp"}
    task = task_of(plain)
    assert task is TASKS["detection"]
    made = task.load(plain, "here", None)
    assert task.quality(made).place == ("sparse", "map50")
    held = task.on_held_out(made.plain())
    assert held["data"]["validation"] == 0.1
    assert parse(held).evaluate == "validation"
    assert parse(task.shortened(made.plain(), 0.5)).train.epochs == made.train.epochs / 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"sise": 96}}, "did you mean size"),
        ({"data": {"size": 8}}, "data.size"),
        ({"model": {"name": "ssd_big"}}, "unknown detector"),
        ({"model": {"width": 0.5}}, r"options of the network .*model\.options\.width"),
        ({"train": {"batch_size": 9}}, "between 1 and the 8 images"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_refused(root, changes, said):
    plain = recipe(root)
    for key, value in changes.items():
        plain[key] = plain[key] | value
        if key == "model":
            plain[key].pop("options")
    with pytest.raises(SteppeError, match=said):
        steppe.train(plain)


def test_a_recipe_without_images_is_refused():
    with pytest.raises(SteppeError, match="on which images a detector is trained"):
        parse({"task": "detection", "method": "gmp"})


def test_objectives_that_compare_class_scores_are_refused(root):
    plain = recipe(root) | {"method": {"name": "gmp", "sparsity": 0.5, "objective": "distillation"}}
    with pytest.raises(SteppeError, match="compares class scores"):
        steppe.train(plain)
