import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.vision.models import build


def test_lenet_300_100_has_the_known_size_and_names():
    model = build("lenet-300-100", 10, (1, 28, 28))
    assert sum(p.numel() for p in model.parameters()) == 266_610
    assert [k for k in model.state_dict() if k.endswith("weight")] == [
        "fc1.weight",
        "fc2.weight",
        "fc3.weight",
    ]


def test_mlp_is_linear_relu_linear():
    model = build("mlp", 3, (1, 2, 2), hidden=(5,))
    x = torch.randn(4, 1, 2, 2)
    fc1, fc2 = model.fc1, model.fc2
    hidden = (x.flatten(1) @ fc1.weight.T + fc1.bias).clamp(min=0)
    torch.testing.assert_close(model(x), hidden @ fc2.weight.T + fc2.bias)


def test_a_hidden_width_must_be_positive():
    with pytest.raises(SteppeError, match=r"hidden widths must be positive; got \[0\]"):
        build("mlp", 3, (1, 2, 2), hidden=(0,))
