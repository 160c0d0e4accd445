"""YOLOS, random and small: it learns, detects, and its heads and neurons can go."""

import pytest
import torch

import steppe
from detector_losses import losses
from steppe import SteppeError
from steppe.vision.detection.models import build
from steppe.vision.detection.reading import reading_of
from steppe.vision.detection.targets import padded


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("yolos")
    config = transformers.YolosConfig(
        image_size=[64, 64], patch_size=16, hidden_size=16, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=24, num_detection_tokens=6, num_labels=5,
        use_mid_position_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.YolosForObjectDetection(config).save_pretrained(path)
    return path


def test_it_is_loaded_with_a_head_for_the_classes_and_learns(folder):
    said = []
    model = build(str(folder), 2, (3, 64, 64), say=said.append)
    assert "its head starts at random" in said[0]
    x, there = torch.randn(2, 3, 64, 64), torch.tensor([[0.1, 0.1, 0.5, 0.6, 1, 0]])
    targets = padded([there, torch.zeros(0, 6)])
    reading = reading_of(model)
    fell = losses(model, reading, x, targets, 25)
    assert fell[-1] < 0.8 * fell[0]
    outputs = model(x).detach()
    assert outputs.shape == (2, 6, 4 + 2 + 1)
    assert 0 <= float(reading.accuracy(outputs, targets)) <= 1
    assert all(len(found) <= 12 for found in reading.detections(outputs))


def test_at_random_only_the_config_is_read(folder):
    with torch.no_grad():
        torch.manual_seed(1)
        model = build(str(folder), 5, (3, 64, 64), pretrained=False)
    other = build(str(folder), 5, (3, 64, 64), say=str)
    same = [torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)]
    assert not all(same)


def test_its_neurons_go_and_the_outputs_stay(folder):
    model = build(str(folder), 5, (3, 64, 64), say=str).eval()
    x = torch.randn(2, 3, 64, 64)
    groups = steppe.channel_groups(model, x)
    with torch.no_grad():
        tensors = dict(model.named_parameters())
        for own in groups[0].slices:
            if own.role == "output":
                tensors[own.name].index_fill_(own.dim, own.index[:1].flatten(), 0.0)
    done = steppe.remove(model, x, groups=groups)
    assert done.report["removed"]
    assert done.report["error"] < 1e-5


def test_what_is_no_detector_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SteppeError, match="a detector must be one that transformers can load"):
        build(str(tmp_path), 2, (3, 64, 64))
