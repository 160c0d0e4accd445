"""Attention heads and MLP neurons of transformers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.removal.transformer_groups import transformer_groups


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


def test_queries_keys_and_values_of_each_head_together(networks):
    heads, neurons = transformer_groups(networks.transformers_models()["gpt_neox"]())[:2]
    assert (heads.kind, heads.units) == ("head", 4)
    assert by_role(heads, "output")["query_key_value"][1] == list(range(12, 24))
    assert by_role(heads, "bias") == by_role(heads, "output")
    assert by_role(heads, "input")["dense"][1] == [4, 5, 6, 7]
    assert (neurons.kind, neurons.units) == ("channel", 24)


def test_queries_then_keys_then_values_and_gates_above(networks):
    """8 query heads of 4 over 4 key heads, in one weight of 32 + 16 + 16 rows."""
    heads, neurons = transformer_groups(networks.transformers_models()["phi3"]())[:2]
    assert (heads.kind, heads.units) == ("head", 4)
    one = by_role(heads, "output")["qkv_proj"][1]
    assert one == [*range(8, 16), *range(36, 40), *range(52, 56)]
    assert by_role(heads, "input")["o_proj"][1] == list(range(8, 16))
    assert (neurons.kind, neurons.units) == ("channel", 24)
    assert by_role(neurons, "output")["gate_up_proj"][3] == [3, 27]


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


def test_heads_that_do_not_divide_stay():
    assert transformer_groups(nn.ModuleDict({"one": Uneven()})) == []
