"""One norm over many tensors."""

import pytest
import torch

from steppe.core.norm import global_norm


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
