"""Neurons of stacked experts: each loses others, and computes as with zeros in their place."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from language_models import reload, windows
from mixture_models import FAMILIES, build, close
from steppe import SteppeError
from steppe.core.group import masks_of, positions, require_fit
from steppe.llm.prune import prune
from steppe.methods.slim import slim
from steppe.removal.mixtures import mixtures_of
from steppe.removal.plan import Plan
from steppe.removal.surgery import slice_model


def chosen(count: int, width: int, keep: int) -> Tensor:
    """Of each expert others, ``[experts * width]`` booleans."""
    ranks = torch.rand(count, width).argsort(1).argsort(1)
    return (ranks < keep).flatten()


@pytest.mark.parametrize("name", FAMILIES)
def test_each_expert_loses_neurons_of_its_own(name: str) -> None:
    model, text = build(name, experts_implementation="eager"), windows(2, 9)
    zeroed = copy.deepcopy(model)
    groups = [g for m in mixtures_of(model) if (g := m.neurons()) is not None]
    tensors = dict(model.named_parameters())
    require_fit(groups, tensors)
    width = next(mixtures_of(model)).width
    kept = {g.name: chosen(8, width, width // 2) for g in groups}
    masks = masks_of(groups, kept, tensors)
    with torch.no_grad():
        for parameter, mask in masks.items():
            zeroed.get_parameter(parameter).mul_(mask)
            assert float(mask.float().mean()) == 0.5
        expected = zeroed(text).logits
        assert not close(model(text).logits, expected)
    stays = positions(groups, kept, {n: t.shape for n, t in tensors.items()})
    slice_model(model, stays)
    assert {m.width for m in mixtures_of(model)} == {width // 2}
    with torch.no_grad():
        assert close(model(text).logits, expected)
    down = next(mixtures_of(model)).inside + ".down_proj"
    (index,) = stays[down].values()
    assert index.shape == (8, width // 2)
    assert len({tuple(row) for row in index.tolist()}) > 1


def test_members_of_a_neuron_are_what_computes_it() -> None:
    model = build("mixtral")
    mixture = next(mixtures_of(model))
    group = mixture.neurons()
    assert group is not None
    members = group.members(dict(model.named_parameters()), ("output", "input"))
    gate_up, down = (mixture.tensors[f"{mixture.inside}.{n}_proj"] for n in ("gate_up", "down"))
    expert, neuron = 5, 7
    rows = gate_up[expert, neuron], gate_up[expert, 24 + neuron]
    own = torch.cat([*rows, down[expert, :, neuron]])
    assert torch.equal(members[24 * expert + neuron], own)


def test_cut_twice_is_cut_once(tmp_path: Path) -> None:
    model, once = build("qwen3-moe"), build("qwen3-moe")
    plans = []
    for keep in (8, 4):
        mixtures = list(mixtures_of(model))
        groups = [g for m in mixtures if (g := m.neurons()) is not None]
        kept = {g.name: chosen(8, mixtures[0].width, keep) for g in groups}
        shapes = {n: t.shape for n, t in model.named_parameters()}
        plans.append(Plan.of(model, positions(groups, kept, shapes)))
        plans[-1].apply(model)
    plans[0].then(plans[1]).save(tmp_path)
    Plan.load(tmp_path).apply(once)
    assert all(torch.equal(t, once.state_dict()[n]) for n, t in model.state_dict().items())


def test_positions_that_are_not_of_each_expert_are_refused() -> None:
    model = build("mixtral")
    down = next(mixtures_of(model)).inside + ".down_proj"
    with pytest.raises(SteppeError, match=down):
        slice_model(model, {down: {2: torch.arange(4).expand(7, 4)}})
    with pytest.raises(SteppeError, match=down):
        slice_model(model, {down: {2: torch.tensor([[0, 24]] * 8)}})


WIDTHS = {
    "mixtral": {"intermediate_size": 16},
    "qwen3-moe": {"moe_intermediate_size": 8},  # all its blocks have mixtures
    "qwen2-moe": {
        "intermediate_size": 16,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 13,
    },
    "deepseek-v3": {"intermediate_size": 16, "moe_intermediate_size": 8},
    "gpt-oss": {"intermediate_size": 16},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_neurons_of_mixtures_pruned(name: str, tmp_path: Path) -> None:
    dense, out = tmp_path / "dense", tmp_path / "out"
    build(name).save_pretrained(dense)
    record = prune(dense, slim(sparsity=1 / 3, structure="neurons"), windows(), out)
    assert record["removed"]["agreement"] < 1e-5
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (dense, out))
    assert {k: v for k, v in new.items() if old.get(k) != v} == WIDTHS[name]
    model = reload(out)
    assert model.config.num_experts_per_tok == reload(dense).config.num_experts_per_tok
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    assert model.generate(windows(1, 4), **options).shape[1] > 4
    again = build(name)
    Plan.load(out).apply(again)  # only positions: what stays was fitted
    assert {n: t.shape for n, t in again.state_dict().items()} == {
        n: t.shape for n, t in model.state_dict().items()
    }


def test_widths_that_no_config_can_say_are_refused_at_once(tmp_path: Path) -> None:
    build("deepseek-v3").save_pretrained(tmp_path / "dense")
    # two shared experts of 12 keep 18 of 24, the others 8 of 12
    with pytest.raises(SteppeError, match=r"shared_experts.*another --sparsity"):
        prune(
            tmp_path / "dense", slim(sparsity=0.25, structure="neurons"), windows(), tmp_path / "o"
        )
    assert not (tmp_path / "o" / "checkpoints").exists()


def test_no_mixture_without_a_router_beside_stacked_experts() -> None:
    owner, owner.experts = nn.Module(), nn.Module()
    owner.experts.up = nn.Parameter(torch.ones(4, 3, 2))
    assert not list(mixtures_of(owner))
    owner.gate = nn.Linear(2, 3)  # of three
    assert not list(mixtures_of(owner))
    owner.gate = nn.Linear(2, 4)
    (found,) = mixtures_of(owner)
    assert (found.name, found.count) == ("gate.weight", 4)
    assert set(found.tensors) == {"gate.weight", "gate.bias", "experts.up"}
    assert found.neurons() is None
