"""Packing: the kernels and torch alone write the same bytes."""

import pytest
import torch

from looped import looped
from steppe.core.mask import pack
from steppe.sparse import packing, reference
from steppe.sparse.native.library import library
from steppe.sparse.reference import Source, integers

PACKERS = [(packing.bits, reference.bits_pack), (packing.index, reference.index_pack)]


def matrices():
    for rows, columns in [(1, 1), (4, 32), (5, 33), (9, 257), (3, 4097), (2, 8200), (130, 40)]:
        for sparsity in (0.0, 0.5, 0.97, 1.0):
            weight = torch.randn(rows, columns)
            yield weight.masked_fill_(torch.rand(rows, columns) < sparsity, 0)


@pytest.mark.parametrize(("by_kernels", "by_torch"), PACKERS, ids=["bits", "index"])
@looped(dtype=[torch.float32, torch.bfloat16, torch.float16])
def test_the_kernels_pack_as_torch_does(by_kernels, by_torch, dtype):
    if library() is None:
        pytest.skip("no kernels here")
    for weight in matrices():
        weight = weight.to(dtype)
        kept = integers(weight) != 0
        whole = Source.dense(weight)
        parts = Source(*weight.shape, weight[kept], pack({"w": kept})["w.bits"])
        for source in (whole, parts):
            for one, other in zip(by_kernels(source), by_torch(source), strict=True):
                assert one.dtype == other.dtype
                assert torch.equal(one, other)


def test_portions_are_the_whole(monkeypatch):
    weight = torch.randn(37, 19).masked_fill_(torch.rand(37, 19) < 0.5, 0)
    kept = weight != 0
    parts = Source(37, 19, weight[kept], pack({"w": kept})["w.bits"])
    whole = [[t.clone() for t in pack_(parts)] for _, pack_ in PACKERS]
    monkeypatch.setattr(reference, "PORTION", 100)
    for source in (Source.dense(weight), parts):
        rows = [len(own) for own, _ in source.portions()]
        assert rows == [4] * 9 + [1]
        for (_, again), expected in zip(PACKERS, whole, strict=True):
            for one, other in zip(again(source), expected, strict=True):
                assert torch.equal(one, other)
