"""Masks as bits: what is packed comes back, eight to a byte."""

from __future__ import annotations

import pytest
import torch

from steppe.coupling.admm.bits import packed, unpacked


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (9,), (3, 5), (4, 3, 2, 2), (0,), ()])
def test_what_is_packed_comes_back(shape: tuple[int, ...]) -> None:
    for seed in range(4):
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < seed / 3
        bits = packed(mask)
        assert bits.dtype == torch.uint8
        assert bits.numel() == -(-mask.numel() // 8)
        back = unpacked(bits, mask.shape)
        assert back.dtype == torch.bool
        assert torch.equal(back, mask)


def test_every_byte_stands_for_its_own_eight_bits() -> None:
    bits = torch.arange(256, dtype=torch.uint8)
    mask = unpacked(bits, torch.Size([256, 8]))
    assert torch.equal(packed(mask), bits)
    assert torch.equal((mask * 2 ** torch.arange(8)).sum(1), torch.arange(256))


def test_a_mask_that_lies_otherwise_in_memory_is_packed_by_its_order() -> None:
    mask = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    turned = mask.t().contiguous().t()
    assert torch.equal(packed(turned), packed(mask))
