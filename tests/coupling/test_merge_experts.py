"""Which expert another is merged into, and in which order its neurons are."""

import itertools

import pytest
import torch

from steppe import SteppeError, methods
from steppe.coupling.merge_experts import MergeExperts


def test_an_expert_goes_to_the_most_similar_that_stays():
    logits = torch.randn(50, 6, dtype=torch.float64)
    alive = torch.tensor([True, False, True, True, False, False])
    into = MergeExperts().merged_into(alive, {"expert_logits": logits.T @ logits})
    for j in range(6):
        others = [i for i in range(6) if alive[i]]
        like = [float(torch.cosine_similarity(logits[:, i], logits[:, j], dim=0)) for i in others]
        assert into[j] == (j if alive[j] else others[like.index(max(like))])


def test_the_router_alone_may_decide():
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.5, 0.1]], dtype=torch.float64)
    alive, statistics = torch.tensor([True, True, False]), {"expert_router": rows @ rows.T}
    assert MergeExperts(similarity="router").merged_into(alive, statistics).tolist() == [0, 1, 0]


def test_an_expert_whose_row_is_zero_has_a_place_too():
    products = torch.diag(torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))
    alive = torch.tensor([True, False, True])
    assert MergeExperts().merged_into(alive, {"expert_logits": products})[1] in (0, 2)


def test_neurons_are_ordered_as_brute_force_orders_them():
    stays, goes = torch.randn(5, 7), torch.randn(5, 7)
    order = MergeExperts().aligned(stays, goes)
    best = max(
        itertools.permutations(range(5)),
        key=lambda places: float((stays * goes[list(places)]).sum()),
    )
    assert order.tolist() == list(best)
    places = torch.randperm(5)
    assert torch.equal(stays[places][MergeExperts().aligned(stays, stays[places])], stays)


def test_what_it_does_not_know_is_refused():
    with pytest.raises(SteppeError, match="logits or router"):
        MergeExperts(similarity="outputs")
    with pytest.raises(SteppeError, match="structure experts"):
        methods.wanda(sparsity=0.5).replace(coupling="merge_experts")
