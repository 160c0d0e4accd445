"""An SSD without its zero channels computes the same, also in onnxruntime."""

import pytest
import torch

import steppe
from steppe.removal.onnx import write_onnx
from steppe.vision.detection.models import build


@pytest.fixture(scope="module")
def removed():
    torch.manual_seed(0)
    model = build("ssd_small", 2, (3, 96, 96), width=0.5).eval()
    x = torch.randn(2, 3, 96, 96)
    groups = steppe.channel_groups(model, x)
    with torch.no_grad():
        tensors = dict(model.named_parameters())
        for group in groups:
            gone = torch.arange(group.units) % 3 == 1
            for own in group.slices:
                if own.role == "output":
                    rows = own.index[gone].flatten()
                    tensors[own.name].index_fill_(own.dim, rows, 0.0)
    return model, steppe.remove(model, x, groups=groups), x


def test_channels_of_the_whole_detector_go_and_the_outputs_stay(removed):
    model, done, x = removed
    before, after = done.report["parameters"]
    assert after < 0.6 * before
    with torch.no_grad():
        wanted, got = model(x), done.model.eval()(x)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    assert done.model.reading == model.reading


def test_the_removed_detector_is_the_same_in_onnxruntime(removed, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    _, done, x = removed
    there = write_onnx(done.model.eval(), x, tmp_path / "model.onnx", repeats=1)
    assert there["error"] < 1e-4
