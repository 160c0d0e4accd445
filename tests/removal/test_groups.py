"""One entry for both ways to find groups."""

from __future__ import annotations

import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.removal.attention import transformer_groups
from steppe.removal.graph import channel_groups
from steppe.removal.groups import groups_of, is_transformer
from steppe.vision.models import build


def names(groups):
    return [g.name for g in groups]


def test_transformers_by_name_and_others_by_running_them(networks):
    for model in (make() for make in networks.transformers_models().values()):
        assert is_transformer(model)
        assert names(groups_of(model)) == names(transformer_groups(model))
    model, example = build("resnet20", 10), torch.zeros(1, 3, 32, 32)
    assert names(groups_of(model, example)) == names(channel_groups(model, example))


def test_what_cannot_be_found_says_so(networks):
    with pytest.raises(SteppeError, match="without example_inputs"):
        groups_of(build("resnet20", 10))
    with pytest.raises(SteppeError, match="everything excluded"):
        groups_of(networks.transformers_models()["llama"](), exclude=["model.layers.*.*_proj"])
