"""The layouts with torch alone: any rows come back."""

import torch

from looped import looped
from steppe.sparse import reference
from steppe.sparse.layouts import BITS, INDEX
from steppe.sparse.reference import Source


@looped(rows=[(0, 1), (0, 9), (4, 8), (3, 6), (8, 9), (5, 5)])
def test_some_rows(rows):
    weight = torch.randn(9, 70).masked_fill_(torch.rand(9, 70) < 0.5, 0)
    for layout, pack in ((BITS, reference.bits_pack), (INDEX, reference.index_pack)):
        packed = pack(Source.dense(weight))
        assert torch.equal(layout.rows(*packed, 70, *rows), weight[slice(*rows)])
        assert torch.equal(layout.unpack((*packed, None, 9, 70), *rows), weight[slice(*rows)])


def test_columns_beyond_a_tile():
    columns = 2 * reference.TILE + 8
    places = [0, reference.TILE - 1, reference.TILE, columns - 1]
    weight = torch.zeros(2, columns)
    weight[0, places] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    where, values, starts = reference.index_pack(Source.dense(weight))
    assert starts.tolist() == [[0, 2, 2], [2, 3, 3], [3, 4, 4]]
    assert where[:4].tolist() == [0, reference.TILE - 1, 0, 7]
    assert values[:4].tolist() == [1, 2, 3, 4]
    assert torch.equal(reference.index_unpack(where, values, starts, columns, 0, 2), weight)


def test_columns_are_read_without_sign(monkeypatch):
    monkeypatch.setattr(reference, "TILE", 65536)
    weight = torch.zeros(1, 65536)
    weight[0, [40_000, 65_535]] = 1.0
    where, values, starts = reference.index_pack(Source.dense(weight))
    assert where[:2].tolist() == [40_000 - 65_536, -1]
    assert torch.equal(reference.index_unpack(where, values, starts, 65536, 0, 1), weight)
