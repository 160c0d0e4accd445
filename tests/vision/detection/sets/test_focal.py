"""RT-DETR with its own ResNet, random and small: it learns, detects, and its channels can go."""

import pytest
import torch

import steppe
from detector_losses import losses
from steppe import SteppeError
from steppe.vision.detection.models import build
from steppe.vision.detection.reading import detect, reading_of
from steppe.vision.detection.targets import padded

QUERIES, LAYERS = 6, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("rt_detr")
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 16, 24, 32], depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"], layer_type="basic",
    )  # fmt: skip
    config = transformers.RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[16, 24, 32],
        encoder_ffn_dim=24, encoder_attention_heads=2, d_model=16, num_queries=QUERIES,
        decoder_in_channels=[16, 16, 16], decoder_ffn_dim=24, decoder_layers=LAYERS,
        decoder_attention_heads=2, num_labels=5, num_denoising=10,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.RTDetrForObjectDetection(config).save_pretrained(path)
    return path


def test_it_is_loaded_with_a_head_for_the_classes_and_learns(folder):
    said = []
    model = build(str(folder), 2, (3, 64, 64), say=said.append)
    assert "its head starts at random" in said[0]
    x, there = torch.randn(2, 3, 64, 64), torch.tensor([[0.1, 0.1, 0.5, 0.6, 1, 0]])
    targets = padded([there, torch.zeros(0, 6)])
    reading = reading_of(model)
    assert model(x).shape == (2, (1 + LAYERS) * QUERIES, 4 + 2), "the encoder's and each layer's"
    fell = losses(model, reading, x, targets, 25)
    assert fell[-1] < 0.8 * fell[0]
    untouched = [name for name, p in model.named_parameters() if p.grad is None]
    assert untouched == [], "each parameter must learn, or several processes wait for its gradient"
    outputs = model.eval()(x).detach()
    assert outputs.shape == (2, QUERIES, 4 + 2)
    assert 0 <= float(reading.accuracy(outputs, targets)) <= 1
    assert all(len(found) == QUERIES for found in detect(model, x))


def test_what_it_finds_is_what_transformers_makes_of_its_outputs(folder):
    transformers = pytest.importorskip("transformers")
    model = build(str(folder), 5, (3, 64, 64), say=str).eval()
    x = torch.randn(1, 3, 64, 64)
    theirs = transformers.RTDetrForObjectDetection.from_pretrained(folder).eval()
    with torch.no_grad():
        out = theirs(pixel_values=x)
    tool = transformers.RTDetrImageProcessor()
    (wanted,) = tool.post_process_object_detection(out, threshold=0.0, target_sizes=[(1, 1)])
    found = detect(model, x)[0]
    assert len(found) == QUERIES
    torch.testing.assert_close(found.scores, wanted["scores"])
    assert torch.equal(found.labels, wanted["labels"])
    torch.testing.assert_close(found.boxes, wanted["boxes"].clamp(0, 1))


def test_its_channels_go_and_the_outputs_stay(folder):
    model = build(str(folder), 5, (3, 64, 64), say=str).eval()
    x = torch.randn(1, 3, 64, 64)
    groups = steppe.channel_groups(model, x)
    with torch.no_grad():
        tensors = dict(model.named_parameters())
        for group in groups:
            for own in group.slices:
                if own.role == "output":
                    tensors[own.name].index_fill_(own.dim, own.index[:1].flatten(), 0.0)
    done = steppe.remove(model, x, groups=groups)
    assert done.report["removed"]
    assert done.report["error"] < 1e-4
    assert done.model.reading == model.reading


def test_labels_are_not_smoothed_where_each_class_is_scored_by_itself(folder):
    model = build(str(folder), 2, (3, 64, 64), say=str)
    with pytest.raises(SteppeError, match="labels are smoothed where one class is chosen"):
        model.reading.loss(torch.zeros(1, QUERIES, 6), padded([torch.zeros(0, 6)]), 0.1)


def test_a_size_that_it_does_not_take_is_one_line(folder):
    with pytest.raises(SteppeError, match=r"72 x 72 pixels and .*multiple of 32") as refused:
        build(str(folder), 2, (3, 72, 72), say=str)
    assert "\n" not in str(refused.value)
