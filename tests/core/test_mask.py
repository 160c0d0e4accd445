"""Masks: applied, counted, packed."""

import pytest
import torch

from steppe.core.mask import apply_masks, count_zeros, pack, unpack


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_zeros_are_positive_whatever_was_there(dtype):
    w = torch.tensor([-1.0, float("inf"), float("nan"), -0.0, 3.0], dtype=dtype)
    mask = torch.tensor([False, False, False, False, True])
    weights = {"a": w}
    apply_masks(weights, {"a": mask})
    assert weights["a"] is w
    assert w.tolist() == [0.0, 0.0, 0.0, 0.0, 3.0]
    assert not torch.signbit(w).any()
    assert count_zeros(weights) == 4


def test_not_contiguous():
    w = torch.ones(3, 2).t()
    mask = torch.rand(2, 3) < 0.5
    apply_masks({"a": w}, {"a": mask})
    assert torch.equal(w, mask.float())


@pytest.mark.parametrize("shape", [(1,), (8,), (9,), (3, 5), (2, 3, 3, 1), (0, 4)], ids=str)
def test_packed_and_unpacked(shape):
    masks = {"a.weight": torch.rand(shape) < 0.5, "b.bits": torch.rand(4, 3).t() < 0.5}
    packed = pack(masks)
    assert packed["a.weight.bits"].numel() == -(-masks["a.weight"].numel() // 8)
    again = unpack(packed)
    assert again.keys() == masks.keys()
    for name, mask in masks.items():
        assert again[name].dtype == torch.bool
        assert torch.equal(again[name], mask)
