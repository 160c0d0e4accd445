"""What reads channels that go takes over their means."""

import copy
import math

import pytest
import torch
from torch import nn

import steppe
from steppe import SteppeError
from steppe.vision.data import load


class Cnn(nn.Module):
    """Biases behind one convolution, a batch norm behind the next, a flattened map at the end."""

    def __init__(self, bias=True, norm=True, padding=0):
        super().__init__()
        wrap = {"padding": padding, "padding_mode": "circular"} if padding else {}
        self.conv1 = nn.Conv2d(2, 6, 3, **wrap)
        self.conv2 = nn.Conv2d(6, 5, 3, bias=bias, **wrap)
        self.norm2 = nn.BatchNorm2d(5) if norm else nn.Identity()
        self.conv3 = nn.Conv2d(5, 4, 3, stride=2, **wrap)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = torch.sigmoid(self.conv1(x))  # not 0 where the channel is
        x = torch.relu(self.norm2(self.conv2(x)))
        x = torch.relu(self.conv3(x))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def images(n=12):
    return torch.randn(n, 2, 12, 12, generator=torch.Generator().manual_seed(1))


def pruned(net, sparsity=0.4, shift=True, score="variance", steps=1, x=None, **parts):
    """(masks, sparsifier) of a run whose weights do not move before the cut at its end."""
    x = images() if x is None else x
    groups = steppe.channel_groups(net, x[:2])
    method = steppe.methods.vbp(sparsity, at=1.0, shift=shift, score=score).replace(**parts)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    s = steppe.sparsify(net, optimizer, method, steps, groups=groups)
    for _ in range(steps):
        s.step(lambda: net(x).square().mean())
    return s.finish().masks, s


def means_seen(net, x, names):
    """Name -> the mean of each input of that layer; of a convolution over positions."""
    seen = {}
    for name in names:

        def see(module, args, name=name):
            read = args[0]
            seen[name] = read.mean((0, 2, 3)) if read.ndim == 4 else read.mean(0)

        net.get_submodule(name).register_forward_pre_hook(see)
    net(x)
    return seen


def test_the_shift_by_hand():
    torch.manual_seed(0)
    net = Cnn(bias=False).double()
    x = images().double()
    before = copy.deepcopy(net)
    masks, _ = pruned(net, x=x, budget={"name": "uniform", "sparsity": 0.4})
    readers = ["conv2", "conv3", "head"]
    witness = copy.deepcopy(before)
    means = means_seen(witness, x, readers)
    # the batch that taught the means moved the running ones, too
    places = {"conv2": "norm2.running_mean", "conv3": "conv3.bias", "head": "head.bias"}
    after, state = net.state_dict(), witness.state_dict()
    for name in readers:
        old, keep = before.state_dict()[f"{name}.weight"], masks[f"{name}.weight"]
        lost = torch.zeros(len(old)).double()
        for i in range(len(old)):
            if keep[i].any():
                for j in range(old.shape[1]):
                    lost[i] += (old[i, j] * ~keep[i, j]).sum() * means[name][j]
        expected = state[places[name]] + (-lost if name == "conv2" else lost)
        if name == "conv3":
            expected = expected * masks["conv3.bias"]  # an output that is gone stays gone
        torch.testing.assert_close(after[places[name]], expected, atol=1e-12, rtol=1e-10)
        assert lost.any(), name


def with_constants(kind):
    """Three channels of the first layer and two of the third do not depend on the image."""
    torch.manual_seed(0)
    net = Cnn(bias=kind != "norm", norm=kind != "wrapped", padding=int(kind == "wrapped")).double()
    with torch.no_grad():
        for conv, first, constants in (
            (net.conv1, 0, (3.0, -1.0, 2.0)),
            (net.conv3, 1, (2.0, 4.0)),
        ):
            constant = slice(first, first + len(constants))
            conv.weight[constant] = 0.0
            conv.bias[constant] = torch.tensor(constants, dtype=torch.float64)
    return net


@pytest.mark.parametrize("kind", ["bias", "norm", "wrapped"])
def test_channels_that_never_change_are_not_missed(kind):
    """The network computes what it did: with zeros, and without the channels."""
    net, witness, x = with_constants(kind), with_constants(kind), images().double()
    groups = [g for g in steppe.channel_groups(net, x[:2]) if g.name != "conv2.weight"]
    method = steppe.methods.vbp(0.5, at=1.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    s = steppe.sparsify(net, optimizer, method, 1, groups=groups)
    s.step(lambda: net(x).square().mean())
    assert s.finish().units_zeroed == 5
    witness(x)  # running statistics
    removed = steppe.remove(net, x[:2], groups=groups)
    assert sum(removed.report["removed"].values()) == 5
    inputs = torch.randn(5, 2, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        expected = witness.eval()(inputs)
        for same in (net, removed.model):
            torch.testing.assert_close(same.eval()(inputs), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("shift", [True, False])
def test_masked_equals_removed(shift):
    torch.manual_seed(0)
    net, x = Cnn(bias=False), images()
    pruned(net, 0.5, shift)
    removed = steppe.remove(net, x[:2])
    assert removed.report["removed"]
    assert removed.report["error"] <= 1e-5


def test_any_score_may_shift_and_none_must():
    torch.manual_seed(0)
    start = Cnn()
    outputs = {}
    for shift in (True, False):
        net = copy.deepcopy(start)
        pruned(net, 0.5, shift, score="l2")
        outputs[shift] = net.state_dict()
    assert torch.equal(outputs[True]["head.weight"], outputs[False]["head.weight"])
    assert not torch.equal(outputs[True]["head.bias"], outputs[False]["head.bias"])


def test_what_went_earlier_is_not_taken_over_again():
    torch.manual_seed(0)
    net = Cnn()
    _, s = pruned(net)
    state = {n: t.clone() for n, t in net.state_dict().items()}
    s.selector.shift(s.weights, s.state["mask"], s.selector.beside())
    assert all(torch.equal(state[n], t) for n, t in net.state_dict().items())


def test_a_look_on_the_way_changes_nothing():
    torch.manual_seed(0)
    net, x = Cnn(bias=False), images()
    method = steppe.methods.vbp(0.5, at=1.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    groups = steppe.channel_groups(net, x[:2])
    s = steppe.sparsify(net, optimizer, method, 2, groups=groups)
    s.step(lambda: net(x).square().mean())
    state = {n: t.clone() for n, t in net.state_dict().items()}
    assert s.apply_to(copy.deepcopy(net)).units_zeroed > 0
    assert all(torch.equal(state[n], t) for n, t in net.state_dict().items())


def test_gradual_cuts_take_over_each_channel_once():
    """With weights that do not move, several cuts are one: means of what stays do not change."""
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    x = torch.randn(40, 4, dtype=torch.float64)
    results = []
    for schedule in ({"name": "one_shot"}, {"name": "linear", "every": 1}):
        net = copy.deepcopy(start)
        pruned(net, 0.5, steps=6, x=x, schedule=schedule)
        results.append(net.state_dict())
    for name, tensor in results[0].items():
        torch.testing.assert_close(tensor, results[1][name], atol=1e-12, rtol=1e-10)


class Bare(nn.Module):
    def __init__(self, elsewhere):
        super().__init__()
        self.elsewhere = elsewhere
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        x = self.last(torch.relu(self.first(x)))
        return self.norm(x) + x if self.elsewhere else torch.tanh(x)


@pytest.mark.parametrize("elsewhere", [True, False])
def test_neither_bias_nor_norm_is_refused_at_the_first_step(elsewhere):
    net = Bare(elsewhere)
    with pytest.raises(SteppeError, match=r"bias, or a batch norm straight.*neither for last"):
        pruned(net, x=torch.randn(8, 3))


def test_norms_without_running_means_take_it_out_themselves():
    torch.manual_seed(0)
    net = Cnn(bias=False)
    net.norm2 = nn.BatchNorm2d(5, track_running_stats=False)
    masks, _ = pruned(net)
    assert not masks["conv2.weight"].all()


def test_refused_without_coupled_channels():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(SteppeError, match="shifts the means of coupled channels; got no groups"):
        steppe.sparsify(net, optimizer, steppe.methods.vbp(0.5, score="l2"), 1)
    with pytest.raises(SteppeError, match="shifts the means of coupled channels, in a loop"):
        steppe.methods.vbp(0.5, structure="unstructured")


def test_refused_where_the_means_cannot_be_seen():
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 3, 3, stride=2))
    x = torch.randn(2, 2, 4, 4)
    groups = steppe.channel_groups(net, x)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(SteppeError, match=r"taken over by linear.*2\.weight.*neither"):
        steppe.sparsify(net, optimizer, steppe.methods.vbp(0.5, score="l2"), 1, groups=groups)


def test_refused_for_optimizers_that_hold_other_weights():
    class Averaging(torch.optim.SGD):
        def train(self): ...

        def eval(self): ...

    net = Cnn()
    groups = steppe.channel_groups(net, images(2))
    with pytest.raises(SteppeError, match="shifts biases beside the optimizer; got Averaging"):
        steppe.sparsify(
            net, Averaging(net.parameters(), lr=0.1), steppe.methods.vbp(0.5), 1, groups=groups
        )


def vit():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    return transformers.ViTForImageClassification(config).double()


def test_neurons_and_heads_of_a_vision_transformer():
    net = vit()
    x = torch.randn(10, 1, 8, 8, dtype=torch.float64)
    groups = steppe.channel_groups(net, x[:2])
    assert sorted(g.kind for g in groups) == ["channel", "channel", "head", "head"]
    before = copy.deepcopy(net)
    seen = {}
    names = sorted(
        {s.name.rpartition(".")[0] for g in groups for s in g.slices if s.role == "input"}
    )
    for name in names:
        before.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: seen.update({name: args[0].flatten(0, 1)})
        )
    before(x)
    method = steppe.methods.vbp(0.4, at=1.0)
    s = steppe.sparsify(net, torch.optim.SGD(net.parameters(), lr=0.0), method, 1, groups=groups)
    s.step(lambda: net(x).logits.square().mean())
    done = s.finish()
    units = s.selector.units(s.selector.method.score, dict(before.named_parameters()))
    for group in groups:
        (part,) = [p for p in group.slices if p.role == "input"]
        variances = torch.var(seen[part.name.rpartition(".")[0]], 0, correction=0)
        expected = variances[part.index].sum(1)
        torch.testing.assert_close(units[group.name], expected, atol=1e-12, rtol=1e-9)
    assert done.units_zeroed == math.ceil(0.4 * sum(g.units for g in groups))
    for name in names:
        old, new = before.get_submodule(name), net.get_submodule(name)
        gone = ~done.masks[f"{name}.weight"]
        shift = (old.weight * gone) @ seen[name].mean(0)
        torch.testing.assert_close(new.bias, old.bias + shift, atol=1e-12, rtol=1e-9)
    removed = steppe.remove(net, x[:2], groups=groups)
    assert sum(removed.report["removed"].values()) == done.units_zeroed
    assert removed.report["error"] <= 1e-5


def test_resumed_before_the_cut_bit_for_bit():
    def start(seed):
        torch.manual_seed(seed)
        net = Cnn(bias=False)
        groups = steppe.channel_groups(net, images(2))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        return net, steppe.sparsify(
            net, optimizer, steppe.methods.vbp(0.5, at=0.5), 8, groups=groups
        )

    def go(net, s, steps):
        for _ in range(steps):
            s.step(lambda: net(images()).square().mean())

    for stop in (2, 6):  # before the cut, and after it
        one, whole = start(0)
        go(one, whole, stop)
        saved = copy.deepcopy({"model": one.state_dict(), "sparsifier": whole.state_dict()})
        go(one, whole, 8 - stop)
        whole.finish()
        other, rest = start(1)
        other.load_state_dict(saved["model"])
        rest.load_state_dict(saved["sparsifier"])
        go(other, rest, 8 - stop)
        rest.finish()
        state = other.state_dict()
        assert all(torch.equal(t, state[n]) for n, t in one.state_dict().items())


def pictures(split):
    return split.images.float() / 255


def test_accuracy_on_digits_is_not_below_that_without_it():
    data = load("digits")
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(288, 32),
        nn.Sigmoid(),
        nn.Linear(32, 10),
    )
    x, y = pictures(data.train), data.train.labels
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(200):
        rows = torch.arange(64 * step, 64 * step + 64) % len(x)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
    groups = steppe.channel_groups(net, x[:2])

    def accuracy(model):
        with torch.no_grad():
            return float((model(pictures(data.test)).argmax(1) == data.test.labels).double().mean())

    def cut(shift):
        model = copy.deepcopy(net)
        method = steppe.methods.vbp(0.5, at=1.0, shift=shift, budget="uniform")
        still = torch.optim.SGD(model.parameters(), lr=0.0)
        s = steppe.sparsify(model, still, method, 1, groups=groups)
        s.step(lambda: nn.functional.cross_entropy(model(x), y))
        assert s.finish().units_zeroed == 40
        return accuracy(model)

    assert accuracy(net) > 0.9
    shifted, without = cut(True), cut(False)

    assert shifted >= without
