"""The inputs of a convolution as rows of a matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from steppe.engine.blockwise.convolution_inputs import bound, unfolded


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 3},
        {"padding": 2, "stride": 2},
        {"dilation": 2, "padding": "valid"},
        {"padding": "same"},
        {"padding": (1,), "stride": (3,), "dilation": (2,)},
    ],
    ids=str,
)
@pytest.mark.parametrize("dimensions", [1, 2])
def test_their_product_with_the_weights_is_the_convolution(
    dimensions: int, options: dict[str, Any], groups: int
) -> None:
    x = torch.randn(3, 6, *[9, 8][:dimensions])
    weight = torch.randn(12, 6 // groups, *[4, 3][:dimensions])
    options = {k: v * dimensions if isinstance(v, tuple) else v for k, v in options.items()}
    convolve = F.conv1d if dimensions == 1 else F.conv2d
    expected = convolve(x, weight, groups=groups, **options)
    call = bound((x,), {"weight": weight, "groups": groups, **options})
    rows = unfolded(call, dimensions).view(groups, -1, weight[0].numel())
    products = torch.bmm(rows, weight.view(groups, 12 // groups, -1).mT)
    outputs = products.permute(0, 2, 1).reshape(12, 3, -1).transpose(0, 1)
    torch.testing.assert_close(outputs, expected.flatten(2))


def test_one_input_without_a_batch() -> None:
    x, weight = torch.randn(4, 7), torch.randn(4, 1, 3)
    call = bound((x, weight, None, 1, 0, 1, 4), {})
    assert torch.equal(unfolded(call, 1).view(4, 5, 3)[2, 1], x[2, 1:4])
