"""One entry for both ways to find groups."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.group import masks_of
from steppe.removal.channel_groups import channel_groups, coupled_channels, is_transformer
from steppe.removal.dependency_graph import traced_groups
from steppe.removal.remove import remove
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


def beit(**bias):
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = hf.BeitConfig(**small, intermediate_size=24, image_size=32, patch_size=8, **bias)
    return hf.BeitForImageClassification(config)


def t5():
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 4}
    return hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=48, **sizes))


def swin2():
    sizes = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}
    return hf.Swinv2ForImageClassification(hf.Swinv2Config(image_size=32, patch_size=4, **sizes))


IMAGE = {"pixel_values": torch.randn(2, 3, 32, 32)}
TOKENS = torch.randint(3, 48, (2, 8))
OUTSIDE = {
    "a bias of all layers": (lambda: beit(use_shared_relative_position_bias=True), IMAGE),
    "a bias of each layer": (lambda: beit(use_relative_position_bias=True), IMAGE),
    "T5": (t5, {"input_ids": TOKENS, "decoder_input_ids": TOKENS}),
    "Swin v2": (swin2, IMAGE),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_the_same_way_with_and_without_a_batch(name):
    """Heads with a bias from outside are no group; then everything agrees on what goes."""
    torch.manual_seed(0)
    make, example = OUTSIDE[name]
    model = make().eval()
    groups = channel_groups(model)
    assert names(groups) == names(channel_groups(model, example))
    assert [g.kind for g in groups] == ["channel", "channel"]
    if name.startswith("a bias"):
        heads = [n for n in coupled_channels(model).left_out if n.endswith("q_proj.weight")]
        assert len(heads) == 2
    masks = {g.name: torch.arange(g.units) % 2 > 0 for g in groups}
    named = dict(model.named_parameters())
    with torch.no_grad():
        for weight, mask in masks_of(groups, masks, named).items():
            named[weight].mul_(mask)
    half = {g.name: g.units // 2 for g in groups}
    assert remove(model, example).report["removed"] == half
    assert remove(model, example, groups=groups).report["removed"] == half
    assert remove(model).report["removed"] == half


def test_models_of_transformers_that_are_traced_need_no_batch_either():
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    model = hf.ResNetForImageClassification(config)
    assert names(channel_groups(model)) == names(channel_groups(model, IMAGE))
    assert set(remove(model).report["units"]) == set(names(channel_groups(model)))


class Squeeze(nn.Module):
    """A convolutional network with an fc1 and an fc2 in it, as many transformers have."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc1, self.fc2 = nn.Conv2d(3, 6, 1), nn.Linear(6, 4), nn.Linear(4, 6)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.conv(x)
        scale = self.fc2(torch.relu(self.fc1(x.mean((2, 3)))))
        return self.head(x * scale.sigmoid()[:, :, None, None])


def test_names_that_transformers_have_too_make_no_transformer():
    with pytest.raises(SteppeError, match="without example_inputs"):
        channel_groups(Squeeze())
    assert [g.units for g in channel_groups(Squeeze(), torch.zeros(1, 3, 4, 4))] == [6, 4]


class Heads(nn.Module):
    """Attention by its names, of no package for which a batch can be made."""

    def __init__(self):
        super().__init__()
        self.num_heads = 2
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (
            p(x).view(b, n, self.num_heads, 2).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.o_proj(out.transpose(1, 2).reshape(b, n, -1))


def test_groups_that_no_batch_has_proved_say_so():
    with pytest.warns(UserWarning, match="no trial removal has proved"):
        assert [g.units for g in channel_groups(Heads())] == [2]
    assert [g.units for g in channel_groups(Heads(), torch.zeros(1, 3, 4))] == [2]


def test_where_all_must_stay_there_is_no_group_and_a_warning():
    with pytest.warns(UserWarning, match=r"no channels can go.*weight reaches"):
        assert channel_groups(nn.Sequential(nn.Linear(3, 2)), torch.zeros(1, 3)) == []


def test_lazy_layers_are_refused_in_one_line():
    with pytest.raises(SteppeError, match="run it once") as error:
        channel_groups(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)), torch.zeros(1, 3))
    assert "\n" not in str(error.value)
