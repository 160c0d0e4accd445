"""A model's layers packed in place, and what is said of each."""

import copy

import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.speed import Speed
from steppe.llm.compact import compress
from steppe.sparse import formats_of
from steppe.sparse.choose import Choice
from steppe.sparse.conversion import Packable, convert, in_place, packed
from steppe.sparse.format import FORMATS
from steppe.sparse.linear import Linear
from steppe.sparse.record import RECORD


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
    records = {r.name: r for r in convert(model, format="index")}
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
    convert(model, format="bits")
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

    monkeypatch.setattr("steppe.sparse.conversion.choose", choose)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8))
    nn.init.eye_(model[0].weight)
    records = convert(model, tokens=3)
    assert [(r.format, r.why) for r in records] == [("bits", "measured"), ("dense", "measured")]
    assert isinstance(model[0], Linear)
    assert type(model[1]) is nn.Linear
    assert [(q.rows, q.tokens) for q in asked] == [(64, 3), (8, 3)]
    assert asked[0].stored == "bfloat16"


def test_what_will_lie_elsewhere_is_asked_about_there(monkeypatch):
    asked = []

    def choose(question):
        asked.append(question.device)
        return Choice(format="dense", why="asked")

    monkeypatch.setattr("steppe.sparse.conversion.choose", choose)
    in_place(nn.Linear(64, 64), "auto", device=torch.device("cuda", 1))
    in_place(nn.Linear(64, 64), "auto")
    assert asked == ["cuda", "cpu"]


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
        convert(nn.Linear(2, 2), format="bitz")


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.sparse = nn.Conv2d(16, 16, 3, padding=1)
        self.twin = nn.Conv2d(16, 16, 3, padding=1)
        self.dense = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 16)
        self.unused = nn.Linear(16, 16)
        with torch.no_grad():
            for layer, share in ((self.sparse, 0.95), (self.dense, 0.5), (self.head, 0.95)):
                layer.weight[torch.rand_like(layer.weight) < share] = 0
        self.twin.load_state_dict(self.sparse.state_dict())

    def forward(self, x):
        return self.head(self.dense(self.twin(self.sparse(x))).mean((2, 3)))


def measure(asked):
    """Convolutions are three times as fast with bits and twice with the others; nothing else is."""

    def compare(dense, other, x):
        asked.append((type(dense).__name__, other.format, tuple(x.shape)))
        fast = 3.0 if other.format == "bits" else 2.0
        return Speed.of([(fast if isinstance(dense, nn.Conv2d) else 1.0, 1.0)] * 9)

    return compare


def test_layers_are_measured_on_what_reaches_them():
    model, x, asked = Images(), torch.randn(2, 16, 6, 6), []
    dense = copy.deepcopy(model)
    records = {r.name: (r.format, r.why) for r in convert(model, x, measure=measure(asked))}
    torch.testing.assert_close(model(x), dense(x), atol=1e-5, rtol=1e-5)
    assert model.training
    names = [name for name in FORMATS if name != "dense" and FORMATS[name].quick()]
    convolutions = [("Conv2d", name, (2, 16, 6, 6)) for name in names]
    measured = [one for one in asked if one[0] == "Conv2d"]
    assert measured == convolutions, "the twin, which is alike, is not measured again"
    best = "bits" if "bits" in names else "csr"
    assert records["sparse"][0] == records["twin"][0] == best
    assert "times as fast as dense here" in records["sparse"][1]
    assert records["dense"] == ("dense", "fewer than 90% of the convolution are zeros")
    assert records["head"][0] == "dense"
    assert "not surely faster" in records["head"][1]
    assert records["unused"] == ("dense", "the example does not reach it")


def test_without_an_example_convolutions_stay_dense():
    model = Images()
    records = {r.name: (r.format, r.why) for r in convert(model, format="bits")}
    assert records["sparse"] == (
        "dense",
        "whether a convolution is faster is measured on an example",
    )
    records = {r.name: (r.format, r.why) for r in convert(model, torch.randn(1, 16, 4, 4), "bits")}
    assert records["sparse"] == ("bits", "asked for")
    assert records["head"] == ("bits", "asked for"), "what is packed stays so"


def test_what_is_said_is_the_reason():
    x = torch.randn(1, 16, 6, 6)
    model = Images()
    records = {r.name: r for r in convert(model, x, "dense")}
    assert {records[name].why for name in ("sparse", "dense", "head")} == {"asked for"}
    layer = nn.Sequential(nn.Linear(16, 16))
    (record,) = convert(layer, torch.randn(1, 16), "index")
    assert record.format == "dense"
    # 256 values and columns of 6 bytes, 128 elements behind them, 17 starts
    assert record.why == "index would take 2,440 bytes, dense takes 1,024"


def test_layers_without_bias_are_not_tied():
    for example in (None, torch.randn(1, 64)):
        model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
        for layer in model:
            nn.init.eye_(layer.weight)
        assert [(r.format, r.why) for r in convert(model, example, "bits")] == [
            ("bits", "asked for"),
            ("bits", "asked for"),
        ]


def test_of_two_layers_alike_each_has_its_own_reason(monkeypatch):
    """Of one shape and bucket of sparsity, but only the first is smaller packed."""
    monkeypatch.setattr(FORMATS["index"], "quick", lambda device: True)
    model = nn.Sequential(*(nn.Linear(40, 40, bias=False) for _ in range(2)))
    for layer, kept in zip(model, (880, 890), strict=True):
        layer.weight.data.view(-1)[kept:] = 0

    def compare(_, other, __):
        return Speed.of([(3.0 if other.format == "index" else 1.0, 1.0)] * 9)

    first, second = convert(model, torch.randn(1, 40), measure=compare)
    assert (first.format, first.why) == ("index", "index is 3.00 times as fast as dense here")
    assert second.format == "dense"
    assert "index" not in second.why


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 64)
        nn.init.eye_(self.layer.weight)

    def forward(self, x):
        return self.layer(input=x)


def test_a_layer_that_is_called_by_name_is_reached():
    (record,) = convert(Named(), torch.randn(2, 64), "bits")
    assert (record.format, record.why) == ("bits", "asked for")


def test_numbers_that_are_no_floats_become_floats_as_torch_would_load_them():
    whole = torch.eye(64, dtype=torch.int32)
    stored = compress("w", whole)
    for matrix in (
        Packable.dense(whole, torch.float32),
        Packable.compact(stored["w.bits"], stored["w.values"], (64, 64), torch.float32),
    ):
        form, _ = packed(matrix, "bits")
        assert form is not None
        assert torch.equal(form.to_dense(), torch.eye(64))


def test_zeros_of_a_mask_are_not_stored_whatever_their_sign():
    weight = torch.randn(64, 64)
    masked = weight * (torch.rand(64, 64) > 0.75)
    assert torch.signbit(masked[masked == 0]).any()
    expected = int((masked != 0).sum())
    stored = compress("w", masked)
    of_compact = Packable.compact(stored["w.bits"], stored["w.values"], (64, 64), torch.float32)
    for matrix in (Packable.dense(masked), of_compact):
        form, _ = packed(matrix, "bits")
        assert form is not None
        assert form.kept == expected
        assert torch.equal(form.to_dense(), masked)
    layer = torch.nn.Linear(64, 64)
    layer.weight.data = masked
    assert Linear.of(layer, "bits").matrix.kept == expected
