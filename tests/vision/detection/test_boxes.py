"""Overlaps, offsets and non-maximum suppression beside loops over single boxes."""

import sys
import warnings
from types import ModuleType, SimpleNamespace

import pytest
import torch

from steppe.vision.detection import boxes as boxes_module
from steppe.vision.detection.boxes import areas, centred, cornered, decode, encode, iou, nms


def drawn(n, seed=0, step=None):
    """Random boxes with area; on a grid of ``step`` many overlap alike."""
    draw = torch.Generator().manual_seed(seed)
    start = torch.rand(n, 2, generator=draw)
    boxes = torch.cat([start, start + 0.05 + torch.rand(n, 2, generator=draw) / 2], 1)
    return boxes if step is None else (boxes / step).round() * step + torch.tensor([0, 0, 0.1, 0.1])


def single_iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / area if area else 0.0


def brute_force(boxes, scores, most):
    left = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept = []
    while left:
        best, *rest = left
        kept.append(best)
        left = [i for i in rest if single_iou(boxes[best], boxes[i]) <= most]
    return kept


def test_iou_is_that_of_single_boxes():
    a, b = drawn(7).double(), drawn(5, 1).double()
    wanted = [[single_iou(x, y) for y in b.tolist()] for x in a.tolist()]
    torch.testing.assert_close(iou(a, b), torch.tensor(wanted, dtype=torch.float64))
    assert torch.equal(iou(a[None], b[None])[0], iou(a, b))


def test_boxes_without_area_overlap_nothing():
    point = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    assert float(iou(point, point)) == 0.0
    assert float(areas(torch.tensor([0.5, 0.5, 0.1, 0.9]))) == 0.0


def test_decode_undoes_encode():
    boxes, anchors = drawn(50).double(), centred(drawn(50, 1)).double()
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes)
    torch.testing.assert_close(cornered(centred(boxes)), boxes)
    assert torch.equal(encode(cornered(anchors), anchors).abs() < 1e-12, torch.ones(50, 4) > 0)


def test_nms_is_brute_force():
    for seed in range(30):
        step = 0.1 if seed % 2 else None
        boxes = drawn(40, seed, step)
        scores = torch.rand(40, generator=torch.Generator().manual_seed(seed + 100))
        scores = (scores * 10).round() / 10 if seed % 3 == 0 else scores  # ties
        most = (0.3, 0.45, 0.7)[seed % 3]
        kept = nms(boxes.double(), scores, most).tolist()
        assert kept == brute_force(boxes.double().tolist(), scores.tolist(), most)
        assert nms(boxes.double(), scores, most, 3).tolist() == kept[:3]


def test_nms_of_nothing_is_nothing():
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


def test_where_torchvision_is_installed_it_is_asked(monkeypatch):
    """A stand-in that is strict as the real one: one type of both, all that are kept."""

    def theirs(boxes, scores, most):
        assert boxes.dtype == scores.dtype
        return torch.tensor(brute_force(boxes.tolist(), scores.tolist(), most))

    boxes, scores = drawn(40).double(), torch.rand(40, generator=torch.Generator().manual_seed(1))
    wanted = nms(boxes, scores, 0.45, 5)
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.ops", SimpleNamespace(nms=theirs))
    boxes_module._compiled_nms.cache_clear()
    try:
        assert boxes_module._compiled_nms("cpu") is theirs
        assert torch.equal(nms(boxes, scores, 0.45, 5), wanted)
    finally:
        boxes_module._compiled_nms.cache_clear()


BROKEN = {
    "missing operator": ("raise RuntimeError('operator torchvision::nms does not exist')", ""),
    "missing library": ("raise OSError('libcudart.so.12: cannot open shared object file')", ""),
    "another python": ("raise ImportError('undefined symbol')", ""),
    "another library": ("import no_such_library_here", ""),
    "another version": ("", ""),
    "not built": ("", "def nms(boxes, scores, most): raise RuntimeError('no custom ops')"),
    "other device": ("", "def nms(boxes, scores, most): raise NotImplementedError('no kernel')"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_torchvision_that_does_not_fit_is_said_and_not_used(monkeypatch, tmp_path, how):
    package, operators = BROKEN[how]
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text(package + "\n")
    (tmp_path / "torchvision/ops.py").write_text(operators + "\n")
    for name in ("torchvision", "torchvision.ops"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    boxes, scores = drawn(40).double(), torch.rand(40, generator=torch.Generator().manual_seed(1))
    boxes_module._compiled_nms.cache_clear()
    try:
        with pytest.warns(UserWarning, match="torchvision is installed and does not work"):
            kept = nms(boxes, scores, 0.45).tolist()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert nms(boxes, scores, 0.45).tolist() == kept, "it is said once"
    finally:
        boxes_module._compiled_nms.cache_clear()
        for name in ("torchvision", "torchvision.ops"):
            sys.modules.pop(name, None)
    assert kept == brute_force(boxes.tolist(), scores.tolist(), 0.45)
