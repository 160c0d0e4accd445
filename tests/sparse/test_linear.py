"""The layer that stands where an nn.Linear stood."""

import copy

import pytest
import torch
from torch import nn

from looped import looped
from steppe.core.errors import SteppeError
from steppe.sparse.format import FORMATS
from steppe.sparse.linear import Linear, is_linear


@pytest.fixture
def dense():
    layer = nn.Linear(40, 12)
    with torch.no_grad():
        layer.weight[torch.rand(12, 40) < 0.6] = 0
        layer.weight[0, 0] = -0.0
    return layer


@pytest.fixture(params=sorted(FORMATS))
def pair(request, dense):
    return dense, Linear.of(dense, format=request.param)


def test_the_state_is_that_of_the_dense_layer(pair):
    dense, sparse = pair
    wanted, state = dense.state_dict(), sparse.state_dict()
    assert list(state) == list(wanted)
    for key, value in wanted.items():
        assert torch.equal(state[key].view(torch.int32), (value + 0.0).view(torch.int32))
    assert sum(1 for _ in sparse.parameters()) == 1, "the weight is frozen, the bias is not"


def test_a_dense_state_is_packed_anew(pair):
    _, sparse = pair
    other = nn.Linear(40, 12)
    sparse.load_state_dict(other.state_dict())
    assert torch.equal(sparse.weight, other.weight)
    assert torch.equal(sparse.bias, other.bias)
    x = torch.randn(2, 40)
    torch.testing.assert_close(sparse(x), other(x), atol=1e-5, rtol=1e-5)
    model = nn.Sequential(sparse)
    wrong = [{}, {"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(12)}]
    for state, said in zip(wrong, ["Missing key", "size mismatch for 0.weight"], strict=True):
        with pytest.raises(RuntimeError, match=said):
            model.load_state_dict(state)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict({f"0.{k}": v for k, v in other.state_dict().items()} | {"0.y": x})


@looped(dtype=[torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_to_another_dtype_is_what_the_dense_layer_does(pair, dtype):
    dense, sparse = (copy.deepcopy(one).to(dtype) for one in pair)
    assert torch.equal(sparse.weight, dense.weight)
    assert sparse.weight.dtype == sparse.bias.dtype == dtype
    if dtype != torch.float64:
        assert torch.equal(sparse.state_dict()["weight"], dense.weight)


def test_numbers_of_16_bits_stay_so_in_a_wider_model(dense):
    narrow = Linear.of(dense.to(torch.bfloat16), format="bits")
    taken = narrow.matrix.bytes
    wide = narrow.to(torch.float32)
    assert wide.weight.dtype == torch.float32
    assert wide.matrix.stored == torch.bfloat16
    assert wide.matrix.bytes == taken


def test_copies_and_moves(pair):
    _, sparse = pair
    twin = copy.deepcopy(sparse)
    places = {b.data_ptr() for b in sparse.buffers()}
    assert places.isdisjoint(b.data_ptr() for b in twin.buffers())
    assert twin.matrix is twin._matrix, "the buffers are the matrix's own tensors"
    assert twin.share_memory().matrix is twin._matrix
    assert all(b.is_shared() for b in twin.buffers())
    on_meta = copy.deepcopy(sparse).to("meta")
    assert {b.device.type for b in on_meta.buffers()} == {"meta"}
    assert on_meta(torch.empty(2, 40, device="meta")).shape == (2, 12)


def test_exchanged_buffers_are_what_is_multiplied(pair):
    dense, sparse = pair
    other = Linear.of(nn.Linear(40, 12).requires_grad_(False), format=sparse.format)
    if sparse.format == "dense":
        x = torch.randn(2, 40)
        new = dict(other.named_buffers())
        given = torch.func.functional_call(sparse, new, (x,))
        torch.testing.assert_close(given, nn.functional.linear(x, other.weight, dense.bias))
    before = sparse.matrix
    name = next(iter(sparse._buffers))
    sparse._buffers[name] = sparse._buffers[name].clone()
    assert sparse.matrix is not before
    assert torch.equal(sparse.weight, dense.weight)


def test_hooks_run(pair):
    _, sparse = pair
    seen = []
    sparse.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    sparse.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    x = torch.randn(3, 40)
    torch.testing.assert_close(
        sparse(x), nn.functional.linear(2 * x, sparse.weight, sparse.bias), atol=1e-5, rtol=1e-5
    )
    assert seen == [(3, 12)]


def test_it_says_what_it_is(dense):
    said = repr(Linear.of(dense, format="bits"))
    assert "in_features=40, out_features=12, bias=True, format=bits, values=float32" in said
    assert "of 1920 bytes" in said


def test_without_a_bias(dense):
    bare = nn.Linear(40, 12, bias=False)
    sparse = Linear.of(bare, format="bits")
    assert sparse.bias is None
    assert list(sparse.state_dict()) == ["weight"]
    assert not Linear.of(bare.eval(), format="bits").training


def test_8_bits_are_near_and_say_so(dense):
    sparse = Linear.of(dense, format="bits", values="int8")
    assert not sparse.matrix.exact
    step = dense.weight.abs().amax(1, keepdim=True) / 127
    assert ((sparse.weight - dense.weight).abs() <= step / 2 + 1e-7).all()
    assert (sparse.weight[dense.weight == 0] == 0).all()
    x = torch.randn(2, 40)
    near = nn.functional.linear(x, sparse.weight, dense.bias)
    torch.testing.assert_close(sparse(x), near, atol=1e-4, rtol=1e-4)
    sparse.load_state_dict(dense.state_dict())
    assert sparse.matrix.stored == torch.int8
    assert sparse.to(torch.bfloat16).weight.dtype == torch.bfloat16


def test_conv1d_of_transformers():
    pytest.importorskip("transformers")
    from transformers.pytorch_utils import Conv1D

    dense = Conv1D(12, 40)
    with torch.no_grad():
        dense.weight[torch.rand(40, 12) < 0.6] = 0
    assert is_linear(dense)
    sparse = Linear.of(dense, format="bits")
    x = torch.randn(2, 3, 40)
    torch.testing.assert_close(sparse(x), dense(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(sparse.state_dict()["weight"], dense.weight)
    nn.init.normal_(dense.weight)
    sparse.load_state_dict(dense.state_dict())
    assert torch.equal(sparse.weight, dense.weight)


def test_what_cannot_be_packed_is_said_in_a_line(dense):
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    with pytest.raises(SteppeError, match=r"not a subclass; got Own"):
        Linear.of(Own(2, 2))
    with pytest.raises(SteppeError, match=r"unknown format; got 'bit'.*did you mean bits"):
        Linear.of(dense, format="bit")
    with pytest.raises(SteppeError, match=r"float32, bfloat16 or float16; got .*float64"):
        Linear.of(nn.Linear(2, 2, dtype=torch.float64), format="bits")
    with pytest.raises(SteppeError, match="int8"):
        Linear.of(dense, format="csr", values="int8")
