"""Detectors by name: what they give, and what is refused."""

import pytest
import torch
from torch import nn

from steppe import SteppeError
from steppe.experiment.detection.recipe import DetectionDataSpec
from steppe.vision.detection.models import DETECTORS, build
from steppe.vision.detection.models.ssd_small import LEAST
from steppe.vision.detection.reading import reading_of
from steppe.vision.detection.targets import padded


def test_a_recipe_and_the_small_detector_agree_on_the_least_size():
    assert DetectionDataSpec(name="voc:x", size=LEAST).size == LEAST
    with pytest.raises(ValueError, match=f"greater than or equal to {LEAST}"):
        DetectionDataSpec(name="voc:x", size=LEAST - 1)


SMALL = [name for name in DETECTORS if "resnet" not in name]


@pytest.mark.parametrize("name", SMALL)
def test_a_detector_learns_and_detects(name):
    model = build(name, 2, (3, 96, 96))
    there = padded([torch.tensor([[0.1, 0.1, 0.5, 0.6, 1, 0]]), torch.zeros(0, 6)])
    outputs = model(torch.randn(2, 3, 96, 96))
    reading = reading_of(model)
    assert outputs.shape == (2, len(reading.anchors), 4 + 1 + 2)
    reading.loss(outputs, there).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    for found in reading.detections(outputs.detach()):
        assert float(found.boxes.min()) >= 0
        assert float(found.boxes.max()) <= 1
        assert torch.equal(found.scores, found.scores.sort(descending=True).values)
        assert set(found.labels.tolist()) <= {0, 1}
    assert 0.0 <= float(reading.accuracy(outputs, there)) <= 1.0


@pytest.mark.parametrize(("size", "last"), [(LEAST, 1), (64, 1), (65, 2)])
def test_the_smallest_images_of_the_small_detector_work(size, last):
    model = build("ssd_small", 2, (3, size, size), width=0.25)
    assert model.reading.anchors.maps[-1] == (last, last)
    there = padded([torch.tensor([[0.1, 0.1, 0.5, 0.6, 1, 0]])] * 2)
    reading = reading_of(model)
    reading.loss(model(torch.randn(2, 3, size, size)), there).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert len(reading.detections(model.eval()(torch.randn(1, 3, size, size)).detach())) == 1
    with pytest.raises(SteppeError, match="32 pixels or more; got 31 x 64"):
        build("ssd_small", 2, (3, 64, 31), width=0.25)


def own(num_classes, in_shape):
    """A detector of a user."""
    model = build("ssd_small", num_classes, in_shape, width=0.5)
    wrapped = nn.Sequential(model)
    wrapped.reading = model.reading
    return wrapped


def test_a_function_of_the_users_makes_one(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "own_detector", type("M", (), {"own": own}))
    assert build("own_detector:own", 2, (3, 96, 96))(torch.zeros(1, 3, 96, 96)).shape[-1] == 7


@pytest.mark.parametrize(
    ("name", "shape", "options", "said"),
    [
        ("ssd_smal", (3, 96, 96), {}, "did you mean ssd_small"),
        ("ssd_small", (3, 96, 96), {"depth": 3}, "its options: width, scales, ratios"),
        ("ssd_small", (3, 96, 96), {"scales": [0.1]}, "5 scales"),
        ("ssd_small", (3, 96, 96), {"width": 0.01}, "at least one channel"),
        ("ssd300_resnet18", (3, 64, 64), {}, "needs larger images; got 64 x 64 pixels"),
        ("ssd300_resnet18", (3, 64, 64), {}, "--set data.size=..., or --input-size of steppe"),
        ("ssd300_resnet18", (3, 300, 300), {"backbone": "nowhere"}, "There is no such file"),
        ("torch.nn:Identity", (3, 96, 96), {}, "a detector has a reading"),
    ],
)
def test_what_cannot_be_built_is_refused(name, shape, options, said):
    with pytest.raises(SteppeError, match=said):
        build(name, 2, shape, **options)


def test_a_detector_of_steppe_starts_at_random():
    with pytest.raises(SteppeError, match="starts at random"):
        build("ssd_small", 2, (3, 96, 96), pretrained=True)
