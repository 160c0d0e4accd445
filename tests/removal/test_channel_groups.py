"""One entry for both ways to find groups."""

from __future__ import annotations

import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.removal.channel_groups import channel_groups, is_transformer
from steppe.removal.dependency_graph import traced_groups
from steppe.removal.transformer_groups import transformer_groups
from steppe.vision.models import build


def names(groups):
    return [g.name for g in groups]


def test_transformers_by_name_and_others_by_running_them(networks):
    for model in (make() for make in networks.transformers_models().values()):
        assert is_transformer(model)
        assert names(channel_groups(model)) == names(transformer_groups(model))
    model, example = build("resnet20", 10), torch.zeros(1, 3, 32, 32)
    assert names(channel_groups(model, example)) == names(traced_groups(model, example))


def test_what_cannot_be_found_says_so(networks):
    with pytest.raises(SteppeError, match="without example_inputs"):
        channel_groups(build("resnet20", 10))
    with pytest.raises(SteppeError, match="everything excluded"):
        channel_groups(networks.transformers_models()["llama"](), exclude=["model.layers.*.*_proj"])
