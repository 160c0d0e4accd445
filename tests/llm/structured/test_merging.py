"""Experts merged in place, beside a loop over their neurons."""

from __future__ import annotations

import copy

import pytest
import torch

from mixture_models import FAMILIES, build
from steppe.coupling.merge_experts import MergeExperts
from steppe.llm.structured.merging import merge
from steppe.removal.mixtures import Mixture, mixtures_of


def columns(mixture: Mixture, name: str, neuron: int) -> list[int]:
    """Where a neuron lies in a stacked tensor's part of one expert, in words of the families."""
    if "gate_up" not in name:
        return [neuron]
    if getattr(mixture.experts, "is_concatenated", True):
        return [neuron, mixture.width + neuron]
    return [2 * neuron, 2 * neuron + 1]


def along(mixture: Mixture, name: str) -> int:
    """The dimension of one expert's tensor along which its neurons lie."""
    first = bool(getattr(mixture.experts, "is_transposed", False))
    if name.endswith("_bias"):
        return 0
    return int(first) if "gate_up" in name else 1 - int(first)


def shuffled(mixture: Mixture, name: str, expert: int, order: list[int]) -> torch.Tensor:
    """One expert's tensor with its neurons in another order; what is of no neuron stays."""
    tensor = mixture.tensors[name][expert]
    if name.endswith("down_proj_bias"):
        return tensor.clone()
    new, dim = tensor.clone(), along(mixture, name)
    for place, neuron in enumerate(order):
        pairs = zip(columns(mixture, name, place), columns(mixture, name, neuron), strict=True)
        for to, source in pairs:
            new.select(dim, to).copy_(tensor.select(dim, source))
    return new


def stacks(mixture: Mixture) -> list[str]:
    return [n for n in mixture.tensors if n.startswith(f"{mixture.inside}.")]


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_expert_in_another_order_changes_nothing(name: str) -> None:
    mixture = next(mixtures_of(build(name)))
    order = torch.randperm(mixture.width).tolist()
    for stack in stacks(mixture):
        mixture.tensors[stack][5] = shuffled(mixture, stack, 2, order)
    before = {n: mixture.tensors[n].clone() for n in stacks(mixture)}
    assert not torch.equal(*(before[stacks(mixture)[0]][[5, 2]]))
    into = torch.tensor([0, 1, 2, 3, 4, 2, 6, 7])
    merge(mixture, MergeExperts(), into, torch.arange(1.0, 9.0))
    for stack, old in before.items():
        torch.testing.assert_close(mixture.tensors[stack], old)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_the_mean_that_a_loop_gives(name: str) -> None:
    mixture = next(mixtures_of(build(name)))
    old = copy.deepcopy(mixture)

    class Turned(MergeExperts):
        """Neurons in an order that a loop can follow."""

        def aligned(self, stays: torch.Tensor, goes: torch.Tensor) -> torch.Tensor:
            assert stays.shape == goes.shape
            return torch.arange(len(stays)).roll(1)

    tokens = torch.tensor([4.0, 0.0, 1.0, 0.0, 3.0, 0.0, 5.0, 2.0])
    into = torch.tensor([0, 0, 0, 3, 4, 3, 4, 7])
    merge(mixture, Turned(), into, tokens)
    order = torch.arange(mixture.width).roll(1).tolist()
    for stack in stacks(mixture):
        new, of = mixture.tensors[stack], old.tensors[stack]
        moved = {e: shuffled(old, stack, e, order) for e in (1, 2, 6)}
        torch.testing.assert_close(new[0], (4 * of[0] + 0 * moved[1] + moved[2]) / 5)
        torch.testing.assert_close(new[4], (3 * of[4] + 5 * moved[6]) / 8)
        # no token reached 3 or 5; 7 has none to take up; those that go are left alone
        for expert in (1, 2, 3, 5, 6, 7):
            assert torch.equal(new[expert], of[expert])
