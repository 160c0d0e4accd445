"""steppe.vision.models: what a name means, and every registered model."""

import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.vision.models import MODELS, build, logits

SHAPES = {"small-cnn": (1, 8, 8), "mlp": (1, 8, 8), "lenet-300-100": (1, 28, 28)}
FAST = [name for name in MODELS if not name.startswith("vgg1") or name == "vgg11-bn"]


@pytest.mark.parametrize("name", FAST)
def test_every_model_trains_and_gives_one_score_per_class(name):
    torch.manual_seed(0)
    shape = SHAPES.get(name, (3, 32, 32))
    model = build(name, num_classes=7, in_shape=shape)
    scores = logits(model, torch.randn(2, *shape))
    assert scores.shape == (2, 7)
    scores.logsumexp(1).sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", FAST)
def test_the_same_generator_state_gives_the_same_model(name):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build(name, 10).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_unknown_model_offers_the_nearest_name():
    with pytest.raises(SteppeError, match=r"unknown model; got 'resnet2'.*did you mean.*resnet20"):
        build("resnet2", 10)


def test_a_path_that_does_not_exist_is_no_hub_id():
    with pytest.raises(SteppeError, match=r"folder that exists; got \./no/such"):
        build("./no/such", 10)


def test_unknown_option_lists_the_options_there_are():
    with pytest.raises(SteppeError, match=r"\['depth'\].*its options: width"):
        build("resnet20", 10, depth=3)


@pytest.mark.parametrize(
    ("kwargs", "rule"),
    [
        ({"num_classes": 1}, "at least 2 classes; got num_classes=1"),
        ({"num_classes": 10, "in_shape": (3, 32)}, r"in_shape must be \(channels, height, width\)"),
    ],
)
def test_impossible_shapes_are_refused(kwargs, rule):
    with pytest.raises(SteppeError, match=rule):
        build("resnet20", **kwargs)


@pytest.mark.parametrize("channels", [8, True, "abc", [1, 2], [1, 2, "x"], None])
def test_options_of_another_kind_are_refused_in_a_line(channels):
    with pytest.raises(SteppeError, match="small-cnn"):
        build("small-cnn", 10, channels=channels)


def test_a_count_of_classes_that_fits_no_memory_is_refused_in_a_line():
    with pytest.raises(SteppeError, match="num_classes"):
        build("small-cnn", 10**20)
