"""Masks as bits: what is packed is applied, eight to a byte."""

from __future__ import annotations

import pytest
import torch

from looped import looped
from steppe.coupling.admm.bits import packed, split, united

SHAPES = [(1,), (7,), (8,), (9,), (3, 5), (4, 3, 2, 2), (0,), ()]


@pytest.mark.parametrize("shape", SHAPES)
@looped(dtype=[torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_what_a_packed_mask_keeps_and_leaves(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        mask = torch.rand(shape, generator=generator) < seed / 3
        value = torch.randn(shape, generator=generator).to(dtype)
        before, bits = value.clone(), packed(mask)
        assert bits.dtype == torch.uint8
        assert bits.numel() == -(-mask.numel() // 8)
        kept, left = split(value, bits)
        assert kept.dtype == left.dtype == dtype
        assert torch.equal(kept, torch.where(mask, value, 0))
        assert torch.equal(left, torch.where(mask, 0, value))
        assert torch.equal(united(kept, left), value)
        assert torch.equal(value, before)


def test_zeros_keep_their_sign_where_they_lie_and_have_none_elsewhere() -> None:
    value, bits = torch.tensor([-0.0, -0.0, -1.0, -1.0]), torch.tensor([5], dtype=torch.uint8)
    kept, left = split(value, bits)
    assert torch.signbit(kept).tolist() == [True, False, True, False]
    assert torch.signbit(left).tolist() == [False, True, False, True]
    assert torch.signbit(united(kept, left)).all()


def test_every_byte_stands_for_its_own_eight_bits() -> None:
    bits = torch.arange(256, dtype=torch.uint8)
    mask = split(torch.ones(256, 8), bits)[0] == 1
    assert torch.equal(packed(mask), bits)
    assert torch.equal((mask * 2 ** torch.arange(8)).sum(1), torch.arange(256))


def test_what_lies_otherwise_in_memory_goes_by_its_order() -> None:
    value = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    turned = value.t().contiguous().t()
    bits = packed(turned > 0)
    assert torch.equal(bits, packed(value > 0))
    assert all(map(torch.equal, split(turned, bits), split(value, bits)))
