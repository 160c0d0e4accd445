"""He's start by either fan, for every network of our own."""

import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.vision.models import MODELS, build
from steppe.vision.models.initial import INITS

SHAPES = {"small-cnn": (1, 8, 8), "mlp": (1, 8, 8), "lenet-300-100": (1, 28, 28)}
FAST = [name for name in MODELS if not name.startswith("vgg1") or name == "vgg11-bn"]


def fan(weight, init):
    kernel = weight[0, 0].numel()
    return kernel * (weight.shape[0] if init == "fan_out" else weight.shape[1])


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("name", FAST)
def test_every_layer_but_the_last_has_the_spread_of_its_fan(name, init):
    torch.manual_seed(0)
    model = build(name, 10, SHAPES.get(name, (3, 32, 32)), init=init)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    large = [m.weight.detach() for m in layers[:-1] if m.weight.numel() > 1000]
    assert large
    for weight in large:
        expected = (2 / fan(weight, init)) ** 0.5
        error = 5 / (2 * weight.numel()) ** 0.5  # five standard errors of a deviation
        assert float(weight.std()) == pytest.approx(expected, rel=error)


@pytest.mark.parametrize("name", ["resnet8", "vgg11-bn", "mlp"])
def test_only_what_is_meant_changes(name):
    models = []
    for options in ({}, {"init": "fan_out"}):
        torch.manual_seed(3)
        models.append(build(name, 10, **options).state_dict())
    changed = {key for key, tensor in models[0].items() if not torch.equal(tensor, models[1][key])}
    assert changed == {k for k in changed if k.endswith("weight") and models[0][k].ndim > 1}
    last = [key for key in models[0] if key.endswith("weight") and models[0][key].ndim == 2][-1]
    assert changed
    assert last not in changed


def test_an_unknown_start_is_refused():
    with pytest.raises(SteppeError, match=r"unknown init; got 'fanout'.*did you mean fan_out"):
        build("resnet8", 10, init="fanout")
