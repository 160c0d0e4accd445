import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.vision.models import build


# torchvision's convolutions and batch norms (vgg19_bn: 20,035,392) plus 525,312 for two 512-unit
# layers and 5,130 for ten classes.
@pytest.mark.parametrize(
    ("name", "convs", "count"),
    [
        ("vgg11-bn", 8, 9_756_426),
        ("vgg13-bn", 10, 9_941_322),
        ("vgg16-bn", 13, 15_253_578),
        ("vgg19-bn", 16, 20_565_834),
    ],
)
def test_layers_and_parameter_counts(name, convs, count):
    with torch.device("meta"):
        model = build(name, 10)
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == convs
    assert sum(p.numel() for p in model.parameters()) == count
    assert [type(m) for m in model.classifier] == [nn.Linear, nn.ReLU] * 2 + [nn.Linear]


def test_larger_images_work():
    with torch.device("meta"):
        assert build("vgg11-bn", 5, (1, 64, 64))(torch.zeros(2, 1, 64, 64)).shape == (2, 5)


def test_small_images_are_refused_before_anything_is_built():
    with pytest.raises(SteppeError, match=r"vgg16-bn needs images of at least 32 x 32; got"):
        build("vgg16-bn", 10, (1, 8, 8))
