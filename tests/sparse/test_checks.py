"""What is refused before a kernel would read outside of a matrix, and that the rest is not."""

import pytest
import torch
from torch import nn

from looped import looped
from steppe.core.errors import SteppeError
from steppe.core.mask import pack
from steppe.sparse import checks
from steppe.sparse.checks import check_compact, ones
from steppe.sparse.format import FORMATS
from steppe.sparse.linear import Linear

PACKED = ["bits", "index", "csr"]
SHAPES = [(1, 1), (3, 5), (7, 70), (5, 8300), (0, 40), (4, 0)]


def drawn(shape, sparsity=0.6):
    return torch.randn(shape).masked_fill(torch.rand(shape) < sparsity, 0)


def refused(matrix, x, bias=None):
    with pytest.raises(SteppeError) as error:
        matrix.linear(x, bias)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", PACKED)
@looped(tokens=[1, 20])
def test_x_of_another_width_or_kind(name, tokens):
    matrix = FORMATS[name].from_dense(drawn((6, 40)))
    for width in (0, 20, 39, 41, 80):
        said = refused(matrix, torch.randn(tokens, width))
        assert (
            f"floats of 40 columns for a matrix of 6 x 40 on cpu; got float32 of [{tokens}" in said
        )
    refused(matrix, torch.randn(()))
    refused(matrix, torch.randn(40 * tokens, 1))
    for kind in (torch.int64, torch.int8, torch.bool, torch.complex64):
        assert str(kind)[6:] in refused(matrix, torch.ones(tokens, 40, dtype=kind))
    refused(matrix, torch.randn(tokens, 40, device="meta"))
    refused(matrix.mapped(lambda t: t.to("meta")), torch.randn(tokens, 40))


@pytest.mark.parametrize("name", PACKED)
@looped(tokens=[1, 20])
def test_a_bias_of_another_length_or_kind(name, tokens):
    matrix, x = FORMATS[name].from_dense(drawn((6, 40))), torch.randn(tokens, 40)
    for length in (0, 1, 5, 7):
        assert "one float for each of 6 rows" in refused(matrix, x, torch.randn(length))
    for bias in (torch.randn(1, 6), torch.randn(()), torch.ones(6, dtype=torch.int8)):
        refused(matrix, x, bias)
    refused(matrix, x, torch.randn(6, device="meta"))


@pytest.mark.parametrize("name", PACKED)
def test_a_gradient_of_another_width(name):
    matrix = FORMATS[name].from_dense(drawn((6, 40)))
    transposed = getattr(torch.ops.steppe_sparse, f"{name}_transposed")
    with pytest.raises(SteppeError, match="g must be floats of 6 columns"):
        transposed(torch.randn(2, 12), *matrix._matrix)


@pytest.mark.parametrize("name", PACKED)
def test_it_is_refused_while_torch_traces(name):
    layer = Linear(FORMATS[name].from_dense(drawn((6, 40))), torch.randn(6))
    x = torch.randn(2, 41)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="floats of 40 columns"):
        compiled(x)
    with pytest.raises(Exception, match="floats of 40 columns"):
        torch.export.export(layer, (x,))
    meta = torch.randn(2, 41, device="meta")
    with pytest.raises(SteppeError, match="floats of 40 columns"):
        layer.to("meta")(meta)


@pytest.mark.parametrize("name", PACKED)
@looped(shape=SHAPES)
@looped(leading=[(0,), (2, 0, 3), (), (1,), (20,)])
def test_none_and_nothing_are_no_fault(name, shape, leading):
    weight = drawn(shape)
    matrix = FORMATS[name].from_dense(weight)
    x, bias = torch.randn(*leading, shape[1], requires_grad=True), torch.randn(shape[0])
    y = matrix.linear(x, bias)
    torch.testing.assert_close(y, nn.functional.linear(x, weight, bias), atol=1e-4, rtol=1e-4)
    (g,) = torch.autograd.grad(y.sum(), x)
    assert g.shape == x.shape


def test_autocast_leaves_what_is_no_narrow_float():
    matrix = FORMATS["bits"].from_dense(drawn((6, 40)))
    with torch.autocast("cpu", torch.bfloat16):
        refused(matrix, torch.ones(2, 40, dtype=torch.int64))
        assert matrix.linear(torch.randn(2, 40).double(), None).dtype == torch.float64


def compact(weight):
    kept = weight != 0
    return pack({"w": kept})["w.bits"], weight[kept], tuple(weight.shape)


@pytest.mark.parametrize("name", [*PACKED, "dense"])
@looped(shape=[(1, 1), (3, 5), (7, 70), (64, 64)])
def test_bits_and_values_that_do_not_fit(name, shape):
    bits, values, shape = compact(drawn(shape).fill_diagonal_(1))
    kind = FORMATS[name]
    kind.from_compact(bits, values, shape)
    several = bits.clone()
    several[0] ^= 0b10000000
    for wrong in (
        (bits, values[1:], shape),
        (bits, torch.cat([values, values]), shape),
        (several, values, shape),
        (bits[1:], values, shape),
        (torch.cat([bits, bits]), values, shape),
        (bits, values, (shape[0] + 9, shape[1])),
        (bits, values, (-1, -shape[0] * shape[1])),
        (bits.view(torch.int8), values, shape),
        (bits[None], values, shape),
        (bits, values[None], shape),
    ):
        with pytest.raises(SteppeError, match="a matrix must have one bit for each") as error:
            kind.from_compact(*wrong)
        assert "\n" not in str(error.value)


def test_bits_behind_the_last_weight():
    bits, _values, shape = compact(torch.ones(3, 5))
    bits[-1] |= 1
    with pytest.raises(SteppeError, match=r"w must have one bit .* behind the last weight"):
        check_compact("w", bits, torch.ones(16), shape)


@looped(size=[0, 1, 3, 4, 5, 31, 1000])
def test_bits_are_counted_in_pieces(size, monkeypatch):
    monkeypatch.setattr(checks, "_PIECE", 7)
    kept = torch.rand(8 * size) < 0.5
    for shift in range(3):
        bits = torch.cat([torch.zeros(shift, dtype=torch.uint8), pack({"w": kept})["w.bits"]])
        check_compact("w", bits[shift:], torch.ones(int(kept.sum())), (8 * size,))
        with pytest.raises(SteppeError):
            check_compact("w", bits[shift:], torch.ones(int(kept.sum()) + 1), (8 * size,))
    words = torch.randint(-(1 << 31), 1 << 31, (50,)).to(torch.int32)
    assert ones(words).tolist() == [(w & 0xFFFFFFFF).bit_count() for w in words.tolist()]


def damages(matrix):
    """Parts of which at least one is not the matrix's own."""
    where, values, starts = matrix.where, matrix.values, matrix.starts
    yield {"values": values[:-1].clone()}
    yield {"values": torch.cat([values, values])}
    yield {"values": values[None]}
    yield {"values": values.to(torch.int8)}
    yield {"values": values.repeat_interleave(2)[::2]}
    yield {"values": values.to("meta")}
    yield {"scale": torch.ones(matrix.rows)}
    yield {"where": where[:-1].clone()}
    yield {"where": where.long()}
    yield {"where": torch.full_like(where, -1)}
    yield {"where": torch.full_like(where, 1 << 14)}
    yield {"starts": starts + 1}
    yield {"starts": starts.flip(-1).contiguous()}
    yield {"starts": starts[..., :-1].clone()}
    yield {"starts": torch.full_like(starts, 1 << 30)}
    yield {"starts": torch.zeros_like(starts)}
    yield {"rows": matrix.rows + 4}
    yield {"columns": matrix.columns - 1}
    yield {"columns": matrix.columns + 5000}


@pytest.mark.parametrize("name", PACKED)
@looped(shape=[(7, 70), (5, 8300)])
def test_parts_that_are_of_no_matrix(name, shape, monkeypatch):
    monkeypatch.setattr(checks, "_PIECE", 100)
    matrix = FORMATS[name].from_dense(drawn(shape, 0.3).index_fill_(1, torch.tensor([69]), 1.0))
    for changes in damages(matrix):
        if name == "csr" and (changes.get("columns") or 0) > matrix.columns:
            continue  # that is the same matrix with more zeros
        with pytest.raises(SteppeError, match=f"parts of {name} must be") as error:
            matrix.replaced(**changes)
        assert "\n" not in str(error.value)


def test_one_bit_that_is_set_outside():
    matrix = FORMATS["bits"].from_dense(torch.zeros(5, 33))
    for place in ((0, 1, 0), (1, 0, 1)):
        where = matrix.where.clone()
        where[place] = 2
        starts = torch.tensor([0, 1, 1] if place[0] == 0 else [0, 0, 1])
        values = torch.zeros(1 + matrix.padding)
        with pytest.raises(SteppeError, match="outside of the matrix"):
            matrix.replaced(where=where, starts=starts, values=values)


@pytest.mark.parametrize("name", PACKED)
def test_a_layer_has_no_parts_of_another(name):
    layer = Linear(FORMATS[name].from_dense(drawn((6, 40))))
    other = Linear(FORMATS[name].from_dense(drawn((6, 40))))
    x = torch.randn(2, 40)
    whole = dict(other.named_buffers())
    torch.testing.assert_close(torch.func.functional_call(layer, whole, (x,)), other(x))
    for part in whole:
        with pytest.raises(SteppeError, match=f"parts of {name} must be"):
            torch.func.functional_call(layer, {part: torch.zeros(3, dtype=whole[part].dtype)}, (x,))
    for device in ("cpu", "meta"):
        with pytest.raises(SteppeError, match=r"to_empty"):
            layer.to(device).to_empty(device="cpu")


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize("name", PACKED)
@looped(dtype=[torch.complex64, torch.float8_e4m3fn])
def test_other_dtypes_are_refused_before_anything_changes(name, dtype):
    layer = Linear(FORMATS[name].from_dense(drawn((6, 40))), torch.randn(6))
    with pytest.raises(SteppeError, match="widened to float64; got"):
        layer.to(dtype)
    assert layer.bias.dtype == layer.weight.dtype == torch.float32
