"""The removed network in another runtime: the same outputs, or nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import steppe
from steppe.removal.onnx import write_onnx

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
    )
    with torch.no_grad():
        for part in (net[0].weight, net[0].bias, net[1].weight, net[1].bias):
            part[::2] = 0
    return net


def test_any_batch_gives_the_same(tmp_path: Path) -> None:
    net = network().eval()
    slim = steppe.remove(net, torch.randn(2, 3, 8, 8)).model
    report = write_onnx(slim, torch.randn(2, 3, 8, 8), tmp_path / "model.onnx", repeats=1)
    assert report["error"] < 1e-5
    assert report["bytes"] == (tmp_path / "model.onnx").stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    x = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        expected = net(x)
    (out,) = session.run(None, {"input": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), expected, rtol=1e-4, atol=1e-5)


def test_what_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steppe.removal.onnx.TOLERANCE", -1.0)
    with pytest.raises(steppe.SteppeError, match="compute the same"):
        write_onnx(network(), torch.randn(2, 3, 8, 8), tmp_path / "model.onnx", repeats=1)
    assert list(tmp_path.iterdir()) == []
