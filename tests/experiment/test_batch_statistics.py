"""Batches too small for a network's norms are refused before the first step, in one line."""

import json

import pytest
import torch
from torch import nn

import steppe
import two_processes
import voc_folder
from steppe import SteppeError
from steppe.experiment.batch_statistics import norms_of_one_place
from steppe.vision.detection.models import DETECTORS
from steppe.vision.detection.models import build as build_detector
from steppe.vision.models import build


def called(model, x):
    return model(x)


@pytest.fixture
def detection(tmp_path):
    root = voc_folder.write(tmp_path / "voc", train=4, test=2)
    return {
        "task": "detection",
        "data": {"name": f"voc:{root}", "augment": "none"},
        "method": {"name": "dense"},
        "train": {"epochs": 1, "batch_size": 1, "bn_batches": 1, "eval_every": 0},
        "device": "cpu",
    }


SIZES = {"ssd300_resnet18": 300, "ssd512_resnet18": 512}


@pytest.mark.parametrize("name", SIZES)
def test_a_detector_with_a_map_of_one_place_takes_no_single_image(name, detection, tmp_path):
    detection["data"]["size"] = SIZES[name]
    detection["model"] = {"name": name}
    said = r"at least two values.*extras\.\d\.4.*--batch-size 2 or more"
    with pytest.raises(SteppeError, match=said) as refused:
        steppe.train(detection, tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_detector_whose_maps_are_larger_takes_one(detection, tmp_path):
    detection["data"]["size"] = 96
    detection["model"] = {"name": "ssd_small", "options": {"width": 0.25}}
    assert steppe.train(detection, tmp_path / "run")["sparse"]["loss"] > 0


def classifier(size):
    return {
        "model": {"name": "small_last_map:build"},
        "data": {"name": "digits", "train_size": 4, "test_size": 4},
        "method": {"name": "dense"},
        "train": {"epochs": 1, "batch_size": size, "bn_batches": 1, "eval_every": 0},
        "device": "cpu",
    }


def test_a_classifier_too(tmp_path):
    with pytest.raises(SteppeError, match="one place before 3"):
        steppe.train(classifier(1), tmp_path / "one")
    assert steppe.train(classifier(2), tmp_path / "two")["sparse"]["accuracy"] >= 0


def test_of_two_processes_each_needs_two_images(tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(classifier(2)))
    with pytest.raises(AssertionError, match=r"1 image per process, for 2.*--batch-size 4"):
        two_processes.run(two_processes.TESTS / "training_worker.py", file, tmp_path / "run")


DETECTED = [(name, int(name[3:6]) if name[3:6].isdecimal() else 64) for name in DETECTORS]
CLASSIFIED = [("resnet18", 8), ("resnet18", 32), ("resnet20", 32), ("vgg11-bn", 32)]


@pytest.mark.parametrize(
    ("make", "name", "size"),
    [(build_detector, *own) for own in DETECTED] + [(build, *own) for own in CLASSIFIED],
)
def test_what_is_named_is_what_torch_refuses(make, name, size):
    model = make(name, 2, (3, size, size))
    named = norms_of_one_place(model, called, (3, size, size))
    assert model.training, "it is left as it was"
    refused = False
    try:
        with torch.no_grad():
            model(torch.randn(1, 3, size, size))
    except ValueError:
        refused = True
    assert bool(named) == refused


def test_norms_that_a_network_keeps_as_they_are_count_for_nothing():
    class Frozen(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(False)

    plain = nn.BatchNorm2d(3, track_running_stats=False)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), Frozen(3), nn.BatchNorm2d(3), plain)
    model.append(nn.Conv2d(3, 3, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert norms_of_one_place(model, called, (3, 4, 4)) == ["2", "3"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_norm_that_is_called_by_keyword_is_looked_at_too():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(input=x)

    assert norms_of_one_place(Named(), called, (3, 1, 1)) == ["norm"]
    assert not norms_of_one_place(Named(), called, (3, 2, 1))
