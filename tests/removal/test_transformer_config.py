"""The sizes in a transformer's config after removal: what a plain config can say."""

from __future__ import annotations

import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.removal.channel_groups import channel_groups
from steppe.removal.example import example_of
from steppe.removal.remove import remove
from steppe.removal.transformer_config import require_plain
from steppe.removal.transformer_groups import transformer_groups


def uniform(networks, name, heads, neurons):
    """A transformer that lost as much in every block, but not the same heads and neurons."""
    model = networks.warm(networks.transformers_models()[name]())
    groups = transformer_groups(model)
    kept = {}
    for group in groups:
        left = heads if group.kind == "head" else neurons
        kept[group.name] = torch.zeros(group.units, dtype=torch.bool)
        kept[group.name][torch.randperm(group.units)[:left]] = True
    networks.zero(model, groups, kept)
    return remove(model, groups=groups)


SAYS = {
    "llama": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4},
    "qwen3": {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4},
    "vit": {"num_attention_heads": 2, "head_dim": 4},
}


@pytest.mark.parametrize("name", list(SAYS))
def test_uniform_transformers_are_loaded_plainly(networks, tmp_path, name):
    done = uniform(networks, name, 2, 8)
    assert done.report["plain"] == ""
    require_plain(done.model)
    for key, value in {**SAYS[name], "intermediate_size": 8}.items():
        assert getattr(done.model.config, key) == value, key
    done.model.save_pretrained(tmp_path)
    again = type(done.model).from_pretrained(tmp_path).eval()
    inputs = example_of(again)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, done.model(**inputs).logits)


def test_what_no_config_can_say_is_refused_in_one_line(networks):
    uneven = uniform(networks, "llama", 3, 8)  # 6 heads do not divide a width of 16
    assert uneven.model.config.num_attention_heads == 8
    bert = uniform(networks, "bert", 2, 8)  # its heads are always width / heads wide
    for model in (uneven.model, bert.model):
        with pytest.raises(SteppeError, match="save_removed") as error:
            require_plain(model)
        assert "\n" not in str(error.value)


def test_configs_of_another_kind_are_left_as_they_are(networks):
    """One number for each stage: Segformer."""
    from transformers import SegformerConfig, SegformerForImageClassification

    config = SegformerConfig(
        num_encoder_blocks=1, depths=[1], sr_ratios=[1], hidden_sizes=[8], num_attention_heads=[2],
        patch_sizes=[3], strides=[2], mlp_ratios=[2],
    )  # fmt: skip
    model, example = networks.warm(SegformerForImageClassification(config)), torch.zeros(1, 3, 8, 8)
    groups = channel_groups(model, example)
    networks.zero(model, groups, networks.draw(groups))
    done = remove(model, example, groups=groups)
    assert "its config" in done.report["plain"]
    assert done.model.config.num_attention_heads == [2]


def test_blocks_that_differ_are_no_plain_model(networks):
    model = networks.warm(networks.transformers_models()["llama"]())
    groups = transformer_groups(model)
    networks.zero(model, groups, {groups[0].name: torch.tensor([True, False, True, True])})
    done = remove(model, groups=groups)
    assert done.report["plain"] == "its blocks differ in heads or neurons"
    assert done.model.config.num_attention_heads == 8
    assert done.model.model.layers[0].self_attn.q_proj.out_features == 24
