"""A model's layers packed in place, and what is said of each."""

import copy

import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.sparse import formats_of
from steppe.sparse.choose import Choice
from steppe.sparse.convert import RECORD, Packable, converted, packed
from steppe.sparse.linear import Linear


class Small(nn.Module):
    """An embedding with a tied head, a layer that two places share, and one that is no Linear."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(32, 64)
        self.first = nn.Linear(64, 64)
        self.again = self.first
        self.full = nn.Linear(64, 64)
        self.bilinear = nn.Bilinear(2, 2, 2)
        self.head = nn.Linear(64, 32, bias=False)
        self.head.weight = self.embedding.weight
        nn.init.eye_(self.first.weight)

    def forward(self, tokens):
        return self.head(self.full(self.again(self.first(self.embedding(tokens)))))


def test_each_matrix_is_packed_or_its_reason_said():
    model, tokens = Small(), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        model.full.weight.normal_()
    dense = copy.deepcopy(model)
    records = {r.name: r for r in converted(model, "index")}
    torch.testing.assert_close(model(tokens), dense(tokens), atol=1e-5, rtol=1e-5)
    assert model.again is model.first, "one layer for both places"
    assert isinstance(model.first, Linear)
    assert (records["first"].format, records["first"].stored) == ("index", "bfloat16")
    assert records["first"].bytes == model.first.matrix.bytes
    assert (records["first"].dense_bytes, records["first"].why) == (4 * 64 * 64, "asked for")
    assert records["full"].format == "dense"
    assert records["full"].why.startswith("index would take")
    assert records["head"].why == "tied to another layer"
    assert model.head.weight is model.embedding.weight
    assert records["bilinear"].why == "Bilinear is no linear layer"
    assert [r.record() for r in formats_of(model)] == [r.record() for r in records.values()]
    assert [r.why for r in formats_of(copy.deepcopy(model))] == [r.why for r in records.values()]
    wanted = dense.state_dict()
    assert {k: v.tolist() for k, v in model.state_dict().items()} == {
        k: v.tolist() for k, v in wanted.items()
    }


def test_a_record_is_of_what_is_there_now():
    model = nn.Sequential(nn.Linear(64, 64))
    nn.init.eye_(model[0].weight)
    converted(model, "bits")
    model.to(torch.bfloat16)
    (record,) = formats_of(model)
    assert (record.dense_bytes, record.why) == (2 * 64 * 64, "asked for")
    assert len(getattr(model, RECORD)) == 1


def test_auto_asks_once_for_each_kind_of_matrix(monkeypatch):
    asked = []

    def choose(question):
        asked.append(question)
        small = question.rows == 8
        return Choice(format="dense" if small else "bits", why="measured")

    monkeypatch.setattr("steppe.sparse.convert.choose", choose)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8))
    nn.init.eye_(model[0].weight)
    records = converted(model, tokens=lambda name: 3)
    assert [(r.format, r.why) for r in records] == [("bits", "measured"), ("dense", "measured")]
    assert isinstance(model[0], Linear)
    assert type(model[1]) is nn.Linear
    assert [(q.rows, q.tokens) for q in asked] == [(64, 3), (8, 3)]
    assert asked[0].stored == "bfloat16"


def test_bits_and_values_are_packed_without_the_dense_matrix():
    weight = torch.eye(64)
    from steppe.core.mask import pack

    bits = pack({"w": weight != 0})["w.bits"]
    matrix = Packable.compact(bits, torch.ones(64), (64, 64), torch.bfloat16)
    form, why = packed(matrix, "bits")
    assert why == "asked for"
    assert torch.equal(form.to_dense(), weight.bfloat16())


def test_no_such_format():
    with pytest.raises(SteppeError, match=r"unknown format; got 'bitz'.*known: auto, bits"):
        converted(nn.Linear(2, 2), "bitz")
