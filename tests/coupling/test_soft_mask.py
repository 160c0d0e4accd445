"""The model shows m * w, all of w is trained, and what was masked comes back."""

import pytest
import torch

import steppe
from steppe import Method, SteppeError
from steppe.core.layer import Layer
from steppe.core.step_context import StepContext
from steppe.coupling.soft_mask import SoftMask
from steppe.engine.step.selector import Selector

BUDGET = {"name": "pooled", "sparsity": 0.5}


def method(**options):
    coupling = {"name": "soft_mask", **options}
    return Method(structure="channel", score="l2", budget=BUDGET, coupling=coupling)


def started(grouped, steps, **options):
    torch.manual_seed(0)
    net = grouped.Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    made = method(**options)
    return net, steppe.sparsify(net, optimizer, made, steps, groups=grouped.groups())


def test_the_model_is_dense_times_mask_after_each_step(grouped):
    net, sparsifier = started(grouped, 9)  # one more: the last zeroes the other side too
    weights = dict(net.named_parameters())
    for _ in range(8):
        sparsifier.step(lambda: grouped.loss(net))
        state = sparsifier.state
        for name, dense in state["dense"].items():
            assert torch.equal(weights[name].detach(), dense * state["cut"][name]), name
        # a channel is cut where it is read, and only there
        assert state["cut"]["stem.weight"].all()
        assert state["cut"]["norm1.weight"].all()
        gone = ~state["mask"]["norm1.weight"]
        assert not state["cut"]["conv2.weight"][:, gone].any()


def test_masked_weights_get_a_gradient_and_move(grouped):
    net, sparsifier = started(grouped, 3, decay=0.0)
    sparsifier.step(lambda: grouped.loss(net))
    state = sparsifier.state
    hidden = {n: ~state["cut"][n] for n in ("conv2.weight", "head.weight")}
    before = {n: state["dense"][n][h].clone() for n, h in hidden.items()}
    sparsifier.step(lambda: grouped.loss(net))
    for name, h in hidden.items():
        assert dict(net.named_parameters())[name].grad[h].any()
        assert (state["dense"][name][h] != before[name]).any()


def test_the_kept_take_the_optimisers_step_bit_for_bit(grouped):
    net, sparsifier = started(grouped, 1, decay=0.0)
    sparsifier._coupled.begin(0)
    cut = {n: c.clone() for n, c in sparsifier.state["cut"].items()}
    other = grouped.Net()
    other.load_state_dict(net.state_dict())
    plain = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    grouped.loss(other).backward()
    plain.step()
    sparsifier.step(lambda: grouped.loss(net))
    for name, expected in other.named_parameters():
        if name in cut:
            assert torch.equal(sparsifier.state["dense"][name][cut[name]], expected[cut[name]])


def context_of(weights, select):
    return StepContext(step=-1, total=9, sparsity=0.5, due=True, weights=weights, project=select)


def test_a_channel_returns_when_it_is_worth_it():
    """Single weights, by hand: the masked one is pushed up until it is the larger."""
    coupling = SoftMask(decay=0.0)
    made = Method(budget=BUDGET, coupling=coupling)
    select = Selector(made, [Layer("w", (1, 2))])
    weights = {"w": torch.tensor([[1.0, 0.9]])}
    context = context_of(weights, select)
    state = context.state = coupling.init(context)
    assert weights["w"].tolist() == [[1.0, 0.0]]
    for step in range(2):
        weights["w"] -= torch.tensor([[0.0, -0.1]])
        context.step, context.due = step, step == 1
        coupling.after_step(context)
    torch.testing.assert_close(weights["w"], torch.tensor([[0.0, 1.1]]))
    torch.testing.assert_close(state["dense"]["w"], torch.tensor([[1.0, 1.1]]))


def test_what_is_masked_decays_and_nothing_else():
    coupling = SoftMask(decay=0.5)
    weights = {"w": torch.tensor([[1.0, 0.8]])}
    select = Selector(Method(budget=BUDGET, coupling=coupling), [Layer("w", (1, 2))])
    context = context_of(weights, select)
    context.state = coupling.init(context)
    context.grads = {"w": torch.zeros(1, 2)}
    coupling.add_gradient(context)
    torch.testing.assert_close(context.grads["w"], torch.tensor([[0.0, 0.4]]))


def test_the_end_computes_what_the_masked_network_did(grouped):
    net, sparsifier = started(grouped, 10)
    for _ in range(10):
        sparsifier.step(lambda: grouped.loss(net))
    x, _ = grouped.data()
    for name, dense in sparsifier.state["dense"].items():
        masked = dense * sparsifier.state["cut"][name]
        dict(net.named_parameters())[name].data.copy_(masked)
    before = net.eval()(x).detach()
    done = sparsifier.finish()
    assert done.units_zeroed == 7
    torch.testing.assert_close(net(x).detach(), before, atol=1e-6, rtol=1e-5)
    assert not net.conv1.weight.detach()[~done.masks["conv1.weight"]].any()


def test_the_last_projection_moves_nothing(grouped):
    _, sparsifier = grouped.train(method(), steps=10)
    assert sparsifier.finish().distance == 0.0


def test_wrong_options():
    for wrong in (-1.0, float("inf"), float("nan")):
        with pytest.raises(SteppeError, match="decay"):
            SoftMask(decay=wrong)
