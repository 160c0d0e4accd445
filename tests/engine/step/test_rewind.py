"""Weights return to what they were, bit for bit; or only the optimiser begins anew."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import steppe
from steppe import SteppeError
from steppe.core.serialization import load_state, save_state

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(32) % 4


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


def run(method, total, each=lambda step, model, sparsifier: None):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = steppe.sparsify(model, optimizer, method, total)
    for step in range(total):
        each(step, model, sparsifier)
        sparsifier.step(lambda: F.cross_entropy(model(X), Y))
    return model, optimizer, sparsifier


def snapshot(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


@pytest.mark.parametrize("to", [0.0, 0.3])
def test_survivors_are_the_snapshot_bit_for_bit(to):
    method = steppe.methods.lth(sparsity=0.8, cycles=4, to=to)
    total = 40 if not to else 10 + 3 * 7
    seen, masks = {}, []

    def each(step, model, sparsifier):
        seen[step] = snapshot(model)
        masks.append({n: m.clone() for n, m in sparsifier.state.get("mask", {}).items()})

    run(method, total, each)
    anchor = method.schedule.anchor(total)
    cuts = [step + 1 for step in range(total) if method.schedule.due(step, total)]
    assert len(cuts) == 3
    for cut in cuts:
        mask = masks[cut]
        assert sum(int((~m).sum()) for m in mask.values()) > 0
        for name, tensor in seen[cut].items():
            expected = seen[anchor][name]
            if name in mask:
                expected = expected * mask[name]
            # batch norms, their counts and biases are rewound too
            assert torch.equal(tensor, expected), name
    for first, second in itertools.pairwise(cuts):
        assert all(not (masks[second][n] & ~masks[first][n]).any() for n in masks[first])


def test_how_much_goes_at_each_cut():
    kept = []

    def each(step, model, sparsifier):
        kept.append(sum(int(m.sum()) for m in sparsifier.state.get("mask", {}).values()))

    method = steppe.methods.lth(sparsity=1 - 0.8**5, cycles=6)
    run(method, 30, each)
    total = 6 * 16 + 16 * 4
    assert kept[6::5] == [total - round((1 - 0.8**level) * total) for level in range(1, 6)]


def test_only_the_optimiser_begins_anew():
    seen, momentum = {}, []

    def each(step, model, sparsifier):
        seen[step] = snapshot(model)
        momentum.append(len(sparsifier.optimizer.state))

    method = steppe.methods.lrr(sparsity=0.8, cycles=4)
    model, _, sparsifier = run(method, 40, each)
    assert [m == 0 for m in momentum] == [step % 10 == 0 for step in range(40)]
    # weights go on: what the last step of a training moved is no more than what a step moves
    for cut in (10, 20, 30):
        assert not torch.equal(seen[cut]["1.running_mean"], seen[0]["1.running_mean"])
        assert int(seen[cut]["1.num_batches_tracked"]) == cut
    assert sparsifier.finish().zeros == round(0.8 * 160)
    assert model[0].weight.count_nonzero() > 0


def test_nothing_is_rewound():
    momentum = []
    method = steppe.methods.pbw(sparsity=0.8, cycles=4)
    run(method, 40, lambda step, model, s: momentum.append(len(s.optimizer.state)))
    assert all(momentum[1:])


def test_resumed_after_a_cut_it_still_knows_the_beginning(tmp_path):
    method = steppe.methods.lth(sparsity=0.8, cycles=4)

    def each(step, model, sparsifier):
        if step == 13:
            state = {"model": model.state_dict(), "sparsifier": sparsifier.state_dict()}
            save_state(tmp_path / "state", state)

    whole, _, _ = run(method, 40, each)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = steppe.sparsify(model, optimizer, method, 40)
    state = load_state(tmp_path / "state")
    model.load_state_dict(state["model"])
    sparsifier.load_state_dict(state["sparsifier"])
    for _ in range(13, 40):
        sparsifier.step(lambda: F.cross_entropy(model(X), Y))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name


def test_a_run_without_a_last_training_is_refused():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SteppeError, match="trains after every cut"):
        steppe.sparsify(model, optimizer, steppe.methods.lth(sparsity=0.8, cycles=10), 9)
