"""One norm over many tensors."""

import pytest
import torch
from torch import nn

from steppe.core.norm import clip_grad_norm, global_norm, scaled


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_as_of_the_joined_vector(dtype):
    tensors = [torch.randn(s).to(dtype) for s in ((3, 4), (5,), (), (2, 1, 2))]
    joined = torch.cat([t.flatten().double() for t in tensors]).norm()
    assert float(global_norm(tensors)) == pytest.approx(float(joined), rel=1e-6)
    cut = [tensors[0][:1], tensors[0][1:], *tensors[1:]]
    assert float(global_norm(cut)) == pytest.approx(float(joined), rel=1e-6)


def test_half_precision_does_not_overflow():
    assert float(global_norm([torch.full((100,), 6e4, dtype=torch.float16)])) == pytest.approx(
        6e5, rel=1e-3
    )
    assert float(global_norm([torch.full((100,), 1e-4, dtype=torch.float16)])) == pytest.approx(
        1e-3, rel=1e-2
    )


def test_not_finite_is_seen():
    assert not global_norm([torch.ones(2), torch.tensor([float("inf")])]).isfinite()
    assert not global_norm([torch.tensor([float("nan")]), torch.ones(2)]).isfinite()


def test_a_complex_entry_counts_with_its_absolute_value():
    z = torch.randn(5, 3, dtype=torch.complex64)
    parts = torch.view_as_real(z)
    assert torch.equal(global_norm([z]), global_norm([parts]))
    assert float(global_norm([z.conj(), torch.ones(4)])) == pytest.approx(
        float((parts.square().sum() + 4).sqrt()), rel=1e-6
    )


def sparse():
    """The gradient of an embedding: rows that come twice stand twice in it."""
    table = nn.Embedding(9, 4, sparse=True)
    table(torch.tensor([1, 5, 1, 1])).mul(torch.randn(4, 4)).sum().backward()
    assert not table.weight.grad.is_coalesced()
    return table.weight


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_a_sparse_gradient_is_summed_first():
    grad = sparse().grad
    assert float(global_norm([grad])) == pytest.approx(float(grad.to_dense().norm()), rel=1e-6)


def test_types_side_by_side():
    tensors = [torch.ones(4, dtype=t) for t in (torch.float16, torch.bfloat16, torch.float64)]
    assert float(global_norm([*tensors, torch.full((2,), 1j)])) == pytest.approx(14**0.5)


def parameter(grad):
    p = nn.Parameter(torch.zeros_like(grad))
    p.grad = grad.clone()
    return p


@pytest.mark.parametrize("largest", [0.1, 100.0])
def test_clipping_is_that_of_torch(largest):
    grads = [torch.randn(3, 4), torch.randn(5).bfloat16(), torch.randn(2, dtype=torch.cfloat)]
    ours, theirs = ([*map(parameter, grads)] for _ in range(2))
    clip_grad_norm([*ours, nn.Parameter(torch.zeros(2))], largest)
    nn.utils.clip_grad_norm_(theirs, largest)
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(ours, theirs, strict=True))
    clip_grad_norm([], largest)


def test_clipping_where_a_norm_has_no_float16():
    grads = [torch.full((100,), 4e4, dtype=torch.float16), torch.full((4,), 3e4)]
    params = [*map(parameter, grads)]
    clip_grad_norm(params, 1.0)
    assert float(global_norm([p.grad for p in params])) == pytest.approx(1.0, rel=1e-2)
    small = [parameter(torch.full((4,), 0.5, dtype=torch.float16)) for _ in range(2)]
    clip_grad_norm(small[:1], 0.5)
    nn.utils.clip_grad_norm_(small[1:], 0.5)
    assert torch.equal(small[0].grad, small[1].grad)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_clipping_sparse_gradients():
    p, q = sparse(), parameter(torch.randn(3))
    dense = [p.grad.to_dense(), q.grad.clone()]
    factor = 0.1 / torch.cat([d.flatten() for d in dense]).norm()
    clip_grad_norm([p, q], 0.1)
    assert p.grad.is_sparse
    for got, before in ((p.grad.to_dense(), dense[0]), (q.grad, dense[1])):
        torch.testing.assert_close(got, before * factor, rtol=1e-4, atol=0)


def test_scaled_makes_new_tensors():
    tensors = [torch.ones(2), torch.ones(3, dtype=torch.float16)]
    out = scaled(tensors, torch.tensor(0.5))
    assert [t.dtype for t in out] == [torch.float32, torch.float16]
    assert all((t == 0.5).all() for t in out)
    assert all((t == 1).all() for t in tensors)
