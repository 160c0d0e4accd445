"""Products as operators: what torch itself checks, gradients, compiling, exporting, memory."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from looped import looped
from steppe.sparse import layouts
from steppe.sparse.format import FORMATS
from steppe.sparse.linear import Linear

NAMES = ["bits", "index", "csr"]
NEAR = {"atol": 1e-5, "rtol": 1e-5}


def layer(name, rows=12, columns=40, bias=True):
    dense = torch.nn.Linear(columns, rows, bias=bias)
    with torch.no_grad():
        dense.weight[torch.rand(rows, columns) < 0.6] = 0
    return dense, Linear.of(dense, format=name)


@pytest.mark.parametrize("name", NAMES)
def test_torchs_own_checks_of_an_operator(name):
    _dense, sparse = layer(name)
    matrix = sparse.matrix
    parts = [matrix.where, matrix.values, matrix.starts, matrix.scale, 12, 40]
    x, bias = torch.randn(2, 40, requires_grad=True), torch.randn(12, requires_grad=True)
    space = torch.ops.steppe_sparse
    linear, product, transposed = (
        getattr(space, f"{name}_{what}") for what in ("linear", "product", "transposed")
    )
    g = torch.randn(2, 12, requires_grad=True)
    for operator, arguments in (
        (linear, (x, None)),
        (linear, (x, bias)),
        (product, (x.detach(), bias.detach())),
        (transposed, (g,)),
    ):
        checks = torch.library.opcheck(operator.default, (*arguments, *parts))
        assert set(checks.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", NAMES)
@looped(tokens=[(1,), (2, 3), (70,)])
def test_gradients_are_those_of_a_dense_layer_with_a_frozen_weight(name, tokens):
    dense, sparse = layer(name)
    x = torch.randn(*tokens, 40, requires_grad=True)
    wanted = torch.autograd.grad(dense(x).square().sum(), [x, dense.bias])
    given = torch.autograd.grad(sparse(x).square().sum(), [x, sparse.bias])
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one, other, **NEAR)
    again = [
        torch.autograd.grad(
            torch.autograd.grad(f(x).square().sum(), x, create_graph=True)[0].sum(), x
        )
        for f in (sparse, dense)
    ]
    torch.testing.assert_close(*again, **NEAR)


@pytest.mark.parametrize("name", NAMES)
def test_it_compiles_whole_and_its_gradients_too(name):
    dense, sparse = layer(name)
    compiled = torch.compile(sparse, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 40, requires_grad=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), dense(x), **NEAR)
    (given,) = torch.autograd.grad(compiled(x).square().sum(), x)
    (wanted,) = torch.autograd.grad(dense(x).square().sum(), x)
    torch.testing.assert_close(given, wanted, **NEAR)


@pytest.mark.parametrize("name", NAMES)
@looped(strict=[False, True])
def test_it_exports_with_a_free_number_of_tokens(name, strict):
    dense, sparse = layer(name)
    free = ({0: torch.export.Dim("tokens", min=2, max=1000)},)
    program = torch.export.export(sparse, (torch.randn(3, 40),), dynamic_shapes=free, strict=strict)
    assert any(name in str(node.target) for node in program.graph.nodes)
    for tokens in (2, 50):
        x = torch.randn(tokens, 40)
        torch.testing.assert_close(program.module()(x), dense(x), **NEAR)


@pytest.mark.parametrize("name", NAMES)
def test_many_tokens_are_multiplied_with_few_rows_unpacked_at_once(name, monkeypatch):
    monkeypatch.setattr(layouts, "SCRATCH", 1)
    dense, sparse = layer(name, rows=37)
    x = torch.randn(layouts.KERNEL_TOKENS + 1, 40)
    largest = Largest()
    with torch.no_grad(), largest:
        y = sparse(x)
    torch.testing.assert_close(y, dense(x), **NEAR)
    if name != "csr":
        assert largest.numel == y.numel(), "nothing larger than the result was made"


class Largest(TorchDispatchMode):
    """The largest tensor that an operator of torch gave."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.numel = max(self.numel, result.numel())
        return result


@pytest.mark.parametrize("name", ["bits", "index"])
@looped(x_dtype=[torch.float32, torch.bfloat16, torch.float16])
def test_x_and_y_may_be_wider_or_narrower_than_the_values(name, x_dtype):
    weight = torch.randn(9, 70).bfloat16().masked_fill(torch.rand(9, 70) < 0.5, 0)
    matrix = FORMATS[name].from_dense(weight)
    for tokens in (1, 40):
        x, bias = torch.randn(tokens, 70).to(x_dtype), torch.randn(9)
        y = matrix.linear(x, bias)
        assert y.dtype == x_dtype
        wanted = x.double() @ weight.double().t() + bias.double()
        torch.testing.assert_close(y.double(), wanted, atol=0.2, rtol=2e-2)


@pytest.mark.parametrize("name", NAMES)
@looped(tokens=[2, 40])
def test_float64_is_multiplied_in_float64(name, tokens):
    weight = torch.randn(9, 70).masked_fill(torch.rand(9, 70) < 0.5, 0)
    x = torch.randn(tokens, 70, dtype=torch.float64, requires_grad=True)
    for matrix in (FORMATS[name].from_dense(weight), FORMATS[name].from_dense(weight).to(x.dtype)):
        y = matrix.linear(x, None)
        torch.testing.assert_close(y, x @ weight.double().t())
        (g,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(g, weight.double().sum(0).expand_as(x))


@pytest.mark.parametrize("name", [*NAMES, "dense"])
def test_autocast_decides_the_dtype_as_for_a_dense_layer(name):
    dense, sparse = layer(name)
    for tokens in (2, 50):
        x = torch.randn(tokens, 40)
        with torch.autocast("cpu", torch.bfloat16):
            y, wanted = sparse(x), dense(x)
        assert y.dtype == wanted.dtype == torch.bfloat16
        torch.testing.assert_close(y, wanted, atol=3e-2, rtol=3e-2)
        assert sparse(x).dtype == torch.float32
