"""What every format of a sparse matrix fulfils, a stranger's too."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch

from looped import looped
from steppe.core.mask import pack
from steppe.sparse import Linear
from steppe.sparse.format import FORMATS, Format
from steppe.sparse.reference import INTEGERS, Source

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (3, 5), (4, 32), (7, 70), (33, 257), (2, 8300)]
NEAR = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@dataclass(frozen=True, eq=False)
class Pairs(Format):
    """What another package may bring: row and column of each kept value."""

    places: torch.Tensor
    values: torch.Tensor
    rows: int
    columns: int

    name = "pairs"

    @property
    def dtype(self):
        return self.values.dtype

    @classmethod
    def from_dense(cls, weight):
        kept = weight.contiguous().view(INTEGERS[weight.element_size()]) != 0
        return cls(kept.nonzero(), weight[kept], *weight.shape)

    @classmethod
    def from_compact(cls, bits, values, shape, dtype=None):
        kept = torch.cat([kept for kept, _ in Source(*shape, values, bits).portions()])
        return cls(kept.nonzero(), values.to(dtype or values.dtype), *shape)

    @property
    def kept(self):
        return len(self.values)

    def to_dense(self):
        dense = self.values.new_zeros(self.rows, self.columns)
        dense[self.places[:, 0], self.places[:, 1]] = self.values
        return dense

    def linear(self, x, bias):
        y = x.new_zeros(*x.shape[:-1], self.rows, dtype=torch.float32)
        row, column = self.places.t()
        y = y.index_add(-1, row, (x[..., column] * self.values).float())
        return (y if bias is None else y + bias).to(x.dtype)

    def to(self, dtype):
        return self.replaced(values=self.values.to(dtype))


NAMES = [*FORMATS, "pairs"]


@pytest.fixture(autouse=True)
def _stranger():
    FORMATS.register("pairs")(Pairs)
    yield
    FORMATS.forget("pairs")


def drawn(shape, dtype, sparsity=0.6):
    weight = torch.randn(shape).to(dtype)
    return weight.masked_fill(torch.rand(shape) < sparsity, 0)


def odd(shape, dtype):
    """With all that a comparison by value would not see."""
    weight = drawn(shape, dtype)
    weight.view(-1)[0] = -0.0
    payload = {4: 0x7FC12345, 2: {torch.bfloat16: 0x7FC5, torch.float16: 0x7E05}.get(dtype)}
    weight.view(INTEGERS[weight.element_size()]).view(-1)[-1] = payload[weight.element_size()]
    if weight.numel() > 9:
        weight.view(-1)[3:6] = torch.tensor([float("inf"), -float("inf"), float("nan")])
        weight[-1 if weight.shape[0] > 2 else 0] *= 1
        weight[1] = 0
    return weight


def bits_of(tensor):
    return tensor.contiguous().view(INTEGERS[tensor.element_size()])


@pytest.mark.parametrize("name", NAMES)
@looped(shape=SHAPES)
@looped(dtype=DTYPES)
def test_the_dense_matrix_comes_back_bit_for_bit(name, dtype, shape):
    weight = odd(shape, dtype)
    matrix = FORMATS[name].from_dense(weight)
    assert matrix.exact
    assert (matrix.rows, matrix.columns, matrix.dtype) == (*shape, dtype)
    assert matrix.kept == int(bits_of(weight).count_nonzero())
    assert torch.equal(bits_of(matrix.to_dense()), bits_of(weight))
    kept = bits_of(weight) != 0
    compact = FORMATS[name].from_compact(pack({"w": kept})["w.bits"], weight[kept], shape)
    assert torch.equal(bits_of(compact.to_dense()), bits_of(weight))
    assert compact.bytes == matrix.bytes


@pytest.mark.parametrize("name", NAMES)
@looped(stored=[torch.bfloat16, torch.float16])
def test_a_wider_model_of_narrow_numbers_stays_exact(name, stored):
    weight = drawn((9, 70), stored)
    kept = weight != 0
    mask = pack({"w": kept})["w.bits"]
    wide = FORMATS[name].from_compact(mask, weight[kept], (9, 70), torch.float32)
    assert wide.dtype == torch.float32
    assert torch.equal(wide.to_dense(), weight.float())
    assert torch.equal(FORMATS[name].from_dense(weight.float()).to_dense(), weight.float())


@pytest.mark.parametrize("name", NAMES)
@looped(leading=[(1,), (3,), (2, 0), (2, 3, 4), ()])
@looped(shape=SHAPES)
@looped(dtype=DTYPES)
def test_products_are_those_of_the_dense_matrix(name, dtype, shape, leading):
    weight = drawn(shape, dtype)
    x, bias = torch.randn(*leading, shape[1]).to(dtype), torch.randn(shape[0]).to(dtype)
    matrix = FORMATS[name].from_dense(weight)
    for b in (None, bias):
        y = matrix.linear(x, b)
        expected = x.double() @ weight.double().t() + (0 if b is None else b.double())
        assert y.shape == expected.shape
        assert y.dtype == dtype
        scale = 1 + (x.double().abs() @ weight.double().abs().t())
        assert ((y.double() - expected).abs() <= NEAR[dtype] * scale).all()


@pytest.mark.parametrize("name", NAMES)
def test_x_may_lie_anyhow(name):
    weight = drawn((6, 40), torch.float32)
    matrix = FORMATS[name].from_dense(weight)
    x = torch.randn(40, 3, 2).permute(2, 1, 0)
    near = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(matrix.linear(x, None), x @ weight.t(), **near)
    torch.testing.assert_close(matrix.linear(x[:, 1], None), x[:, 1] @ weight.t(), **near)


@pytest.mark.parametrize("name", NAMES)
@looped(first=DTYPES)
@looped(then=DTYPES)
def test_another_dtype_rounds_as_the_dense_matrix_does(name, first, then):
    weight = drawn((5, 40), first)
    matrix = FORMATS[name].from_dense(weight).to(then)
    assert matrix.dtype == then
    assert torch.equal(matrix.to_dense(), weight.to(then))


@pytest.mark.parametrize("name", NAMES)
def test_tensors_bytes_and_copies(name):
    matrix = FORMATS[name].from_dense(drawn((8, 64), torch.float32))
    tensors = matrix.tensors()
    assert matrix.bytes == sum(t.nbytes for t in tensors.values())
    twin = matrix.mapped(torch.clone)
    assert torch.equal(twin.to_dense(), matrix.to_dense())
    assert {t.data_ptr() for t in tensors.values()}.isdisjoint(
        t.data_ptr() for t in twin.tensors().values()
    )
    other = drawn((8, 64), torch.float32)
    assert torch.equal(matrix.repacked(other).to_dense(), other)


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_of_it_stands_where_a_linear_layer_stood(name):
    layer = torch.nn.Linear(40, 6)
    with torch.no_grad():
        layer.weight.copy_(drawn((6, 40), torch.float32))
    packed = Linear.of(layer, format=name)
    x = torch.randn(2, 3, 40)
    torch.testing.assert_close(packed(x), layer(x), atol=1e-5, rtol=1e-5)
    state = copy.deepcopy(packed).state_dict()
    assert {k: v.tolist() for k, v in state.items()} == {
        k: v.tolist() for k, v in layer.state_dict().items()
    }
    layer.reset_parameters()
    packed.load_state_dict(layer.state_dict())
    assert torch.equal(packed.weight, layer.weight)


@pytest.mark.parametrize("name", NAMES)
@looped(shape=[(4, 40), (6, 3)])
def test_a_matrix_of_zeros(name, shape):
    matrix = FORMATS[name].from_dense(torch.zeros(shape))
    assert (matrix.kept, matrix.sparsity) == (0, 1.0)
    assert not matrix.to_dense().any()
    assert torch.equal(matrix.linear(torch.ones(2, shape[1]), None), torch.zeros(2, shape[0]))
