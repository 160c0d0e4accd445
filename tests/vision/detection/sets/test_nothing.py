"""DETR with a ResNet of transformers, random and small, and what is no set that can be read."""

import pytest
import torch

from steppe import SteppeError
from steppe.vision.detection.models import build
from steppe.vision.detection.sets.nothing import SetReading
from steppe.vision.detection.targets import padded


def test_every_parameter_of_a_detr_learns(tmp_path):
    transformers = pytest.importorskip("transformers")
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
        out_features=["stage2"],
    )  # fmt: skip
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone=None, backbone_config=backbone, d_model=16,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=6, num_labels=5,
    )  # fmt: skip
    transformers.DetrForObjectDetection(config).save_pretrained(tmp_path)
    model = build(str(tmp_path), 2, (3, 64, 64), say=str)
    outputs = model(torch.randn(2, 3, 64, 64))
    assert outputs.shape == (2, 6, 4 + 2 + 1)
    there = padded([torch.tensor([[0.1, 0.1, 0.5, 0.6, 1, 0]]), torch.zeros(0, 6)])
    model.reading.loss(outputs, there).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_each_query_tells_its_best_class_however_low_its_score():
    """As DETR's PostProcess: no least score, none is suppressed for another."""
    outputs = torch.rand(2, 6, 4 + 3, generator=torch.Generator().manual_seed(0)) * 0.1
    outputs[0, :, :4] = torch.tensor([0.5, 0.5, 0.2, 0.2])
    outputs[..., -1] = 9.0  # all say that they are nothing
    found = SetReading().detections(outputs)
    wanted, labels = outputs[..., 4:].softmax(-1)[..., :-1].max(-1)
    assert float(wanted.max()) < 0.001
    for own, scores, theirs in zip(found, wanted, labels, strict=True):
        order = scores.argsort(descending=True)
        assert torch.equal(own.scores, scores[order])
        assert torch.equal(own.labels, theirs[order])


def test_outputs_of_another_kind_are_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 16, 24, 32], depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"], layer_type="basic",
    )  # fmt: skip
    config = transformers.DeformableDetrConfig(
        use_timm_backbone=False, backbone=None, backbone_config=backbone, d_model=32,
        encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=6, num_labels=5, num_feature_levels=3,
    )  # fmt: skip
    transformers.DeformableDetrForObjectDetection(config).save_pretrained(tmp_path)
    with pytest.raises(SteppeError, match=r"YOLOS, DETR, RT-DETR; got .*Deformable"):
        build(str(tmp_path), 2, (3, 64, 64), say=str)
