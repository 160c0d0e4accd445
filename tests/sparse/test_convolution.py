"""Convolutions with packed weights are the dense ones."""

import copy

import pytest
import torch
from torch import nn

from looped import looped
from steppe.core.errors import SteppeError
from steppe.sparse.convolution import Convolution, is_convolution

SETTINGS = [
    {"kernel_size": 1},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 1, "padding": 1},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": (3, 2), "stride": (1, 3), "padding": (0, 2), "dilation": (2, 1)},
]


def pruned(**settings):
    layer = nn.Conv2d(8, 6, **settings)
    with torch.no_grad():
        layer.weight[torch.rand_like(layer.weight) < 0.8] = 0
    return layer


@pytest.mark.parametrize("format", ["bits", "index", "csr", "dense"])
@looped(settings=SETTINGS)
def test_they_compute_the_same(format, settings):
    dense = pruned(**settings)
    sparse = Convolution.of(dense, format)
    for size in [(8, 9, 7), (3, 8, 6, 9), (1, 8, 5, 5)]:
        x = torch.randn(size, requires_grad=True)
        y, wanted = sparse(x), dense(x)
        torch.testing.assert_close(y, wanted, atol=1e-5, rtol=1e-5)
        given = torch.autograd.grad(y.square().sum(), x)
        torch.testing.assert_close(
            given, torch.autograd.grad(wanted.square().sum(), x), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("format", ["bits", "index", "csr", "dense"])
def test_images_of_other_channels_are_refused_and_none_are_none(format):
    for settings in SETTINGS:
        dense = pruned(**settings)
        sparse = Convolution.of(dense, format)
        for size in [(7, 9, 9), (2, 7, 9, 9), (2, 16, 9, 9), (8, 9), (8,), (1, 2, 8, 9, 9)]:
            with pytest.raises(SteppeError, match="images of 8 channels"):
                sparse(torch.randn(size))
        assert sparse(torch.randn(0, 8, 9, 9)).shape == dense(torch.randn(0, 8, 9, 9)).shape


def test_zeros_of_a_mask_are_not_stored():
    layer = pruned(kernel_size=3)
    with torch.no_grad():
        layer.weight.copy_(torch.where(layer.weight == 0, -0.0, layer.weight))
    kept = int(layer.weight.count_nonzero())
    assert Convolution.of(layer, "bits").matrix.kept == kept


def test_the_state_is_that_of_the_dense_layer():
    dense, other = pruned(kernel_size=3), pruned(kernel_size=3)
    sparse = copy.deepcopy(Convolution.of(dense, "bits"))
    assert list(sparse.state_dict()) == list(dense.state_dict())
    assert torch.equal(sparse.state_dict()["weight"], dense.weight)
    sparse.load_state_dict(other.state_dict())
    assert torch.equal(sparse.weight, other.weight)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        sparse.load_state_dict(other.state_dict() | {"weight": torch.zeros(6, 72)})
    assert sparse.bfloat16().weight.dtype == torch.bfloat16
    assert "8, 6, kernel_size=(3, 3)" in repr(sparse)


@looped(settings=[{"groups": 2}, {"padding": "same"}, {"padding_mode": "reflect", "padding": 1}])
def test_other_convolutions_stay(settings):
    layer = nn.Conv2d(8, 6, 3, **settings)
    assert not is_convolution(layer)
    with pytest.raises(SteppeError, match="one group with zeros around"):
        Convolution.of(layer, "bits")
