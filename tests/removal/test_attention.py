"""Heads and neurons of transformers; what a plain config can say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.removal.attention import require_plain, transformer_groups
from steppe.removal.groups import groups_of
from steppe.removal.remove import example_of, remove


def by_role(group, role):
    return {s.name.split(".")[-2]: s.index.tolist() for s in group.slices if s.role == role}


def test_a_key_head_goes_with_its_query_heads(networks):
    """8 query heads of 4 over 4 key heads: two and two."""
    heads, neurons = transformer_groups(networks.transformers_models()["llama"]())[:2]
    assert (heads.kind, heads.units) == ("head", 4)
    rows = by_role(heads, "output")
    assert rows["q_proj"][1] == list(range(8, 16))
    assert rows["k_proj"][1] == rows["v_proj"][1] == [4, 5, 6, 7]
    assert by_role(heads, "input") == {"o_proj": rows["q_proj"]}
    assert (neurons.kind, neurons.units) == ("channel", 24)
    assert set(by_role(neurons, "output")) == {"gate_proj", "up_proj"}


def test_fused_queries_keys_and_values(networks):
    heads = transformer_groups(networks.transformers_models()["gpt2"]())[0]
    assert heads.slices[0].dim == 1  # Conv1D keeps its outputs last
    one = by_role(heads, "output")["c_attn"][1]
    assert one == [*range(4, 8), *range(20, 24), *range(36, 40)]


def test_what_is_excluded_stays(networks):
    model = networks.transformers_models()["vit"]()
    names = [g.name for g in transformer_groups(model, exclude=["*.layers.0.*", "*.fc1"])]
    assert names == ["vit.layers.1.attention.q_proj.weight"]
    with pytest.raises(SteppeError, match="must match"):
        transformer_groups(model, exclude=["decoder*"])


def test_multiples(networks):
    groups = transformer_groups(networks.transformers_models()["llama"](), round_to=8)
    assert [(g.units, g.multiple) for g in groups[:2]] == [(4, 1), (24, 8)]


class Sinks(nn.Module):
    """As many heads as a head is wide, and one number for each head."""

    def __init__(self):
        super().__init__()
        self.head_dim, self.sinks = 2, nn.Parameter(torch.zeros(2))
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(4, 4) for _ in range(4))


def test_attention_that_holds_more_than_its_projections_is_left_alone():
    assert transformer_groups(nn.ModuleDict({"one": Sinks()})) == []


class Uneven(nn.Module):
    """Three query heads over two key heads."""

    def __init__(self):
        super().__init__()
        self.head_dim = 2
        self.q_proj, self.k_proj = nn.Linear(4, 6), nn.Linear(4, 4)
        self.v_proj, self.o_proj = nn.Linear(4, 4), nn.Linear(6, 4)


def test_heads_that_do_not_divide_are_refused_in_one_line():
    with pytest.raises(SteppeError, match="divide evenly") as error:
        transformer_groups(nn.ModuleDict({"one": Uneven()}))
    assert "exclude=['one']" in str(error.value)
    assert transformer_groups(nn.ModuleDict({"one": Uneven()}), exclude=["one"]) == []


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
    groups = groups_of(model, example)
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
