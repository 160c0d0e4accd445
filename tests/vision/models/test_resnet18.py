import pytest
import torch

import steppe
from steppe import SteppeError
from steppe.vision.models import build


def test_parameter_count():
    """The 3 x 3 stem's network with 10 classes has 11,173,962, whoever writes it."""
    assert sum(p.numel() for p in build("resnet18", 10).parameters()) == 11_173_962


def test_shapes():
    model = build("resnet18", 100, width=0.125).eval()
    assert model[3](torch.zeros(1, 8, 32, 32)).shape == (1, 8, 32, 32)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 100)


def test_width_must_leave_a_channel():
    with pytest.raises(SteppeError, match="at least one channel of 64"):
        build("resnet18", 10, width=0.001)


def test_its_channels_can_go():
    model = build("resnet18", 10, width=0.125).eval()
    groups = steppe.channel_groups(model, torch.zeros(1, 3, 32, 32))
    # a group for every stage's sum and one for the inside of each block
    assert len(groups) == 4 + 8
