"""Radii of neurons as a run sees them: beside ASAM's perturbation, which has one radius."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import steppe
from grouped import Net, groups
from steppe import Method, StepOptions, SteppeError, methods
from steppe.core.layer import Layer
from steppe.core.neurons import Neurons
from steppe.engine.step.neurons import rows_of
from steppe.perturb.adasap import AdaSap
from steppe.perturb.asam import Asam
from steppe.vision.models import build

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(8) % 4
LATER = {"schedule": "linear", "budget": {"name": "pooled", "sparsity": 0.4}}
CHANNELS = Method(structure="channel", **LATER)


def network(kind=Net):
    torch.manual_seed(0)
    net = kind()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # no two channels alike
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net


def resnet():
    torch.manual_seed(0)
    return build("resnet20", 10)


def perturbed(net, perturb, method=CHANNELS, x=X, **given):
    """Name -> eps of the first step."""
    net, places = copy.deepcopy(net), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    s = steppe.sparsify(net, optimizer, method.replace(perturb=perturb), total_steps=9, **given)

    def closure():
        places.append({n: p.detach().clone() for n, p in net.named_parameters()})
        return F.cross_entropy(net(x), Y)

    s.step(closure)
    at_x, moved = places
    return {n: moved[n].double() - at_x[n].double() for n in at_x}


def radii(net, perturb, method=CHANNELS, **given):
    """Name -> the radius of each entry, from what one radius for all makes of the same step."""
    ours = perturbed(net, perturb, method, **given)
    theirs = perturbed(net, Asam(rho=100.0, eta=perturb.eta), method, **given)
    return {n: 100.0 * ours[n] / theirs[n] for n in ours}


def by_output(radius, dim=0):
    """The radius of each output; all its entries have it."""
    rows = radius.movedim(dim, 0).flatten(1) if radius.ndim > 1 else radius[:, None]
    middle = rows.nanmedian(1).values
    # x + eps - x is exact to the last bits of x alone
    assert (rows - middle[:, None]).abs().nanmedian() < 1e-3
    return middle


def close(a, b):
    torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-3)


WIDE = AdaSap(rho_min=10.0, rho_max=100.0)


@pytest.mark.parametrize("grouped", [True, False])
def test_norms_take_the_radius_of_their_channel(grouped):
    given = {"groups": groups()} if grouped else {}
    rho = {n: by_output(r) for n, r in radii(network(), WIDE, **given).items()}
    for vector, layer in (
        ("norm.weight", "stem.weight"),
        ("norm.bias", "stem.weight"),
        ("norm1.weight", "conv1.weight"),
        ("norm1.bias", "conv1.weight"),
        ("conv2.bias", "conv2.weight"),
    ):
        close(rho[vector], rho[layer])
    assert rho["norm1.weight"].std() > 5
    # what is nobody's has the radius at the mean score, which is the mean radius
    neurons = ["stem.weight", "conv1.weight"] + ([] if grouped else ["conv2.weight"])
    mean = torch.cat([rho[n] for n in neurons]).mean()
    close(rho["head.weight"], mean.expand(4))
    own = {n: by_output(r) for n, r in radii(network(), AdaSap(rho_rest=50.0), **given).items()}
    close(own["head.bias"], torch.full((4,), 50.0).double())


def test_coupled_channels_have_one_radius():
    net = network()
    rho = radii(net, WIDE, groups=groups())
    close(by_output(rho["conv2.weight"]), by_output(rho["stem.weight"]))
    # and one score: the norm over all that computes them
    both = torch.cat([net.stem.weight.flatten(1), net.conv2.weight.flatten(1)], 1).norm(dim=1)
    every = torch.cat([both, net.conv1.weight.flatten(1).norm(dim=1)]).detach().double()
    wanted = 100.0 - (every - every.min()) / (every.max() - every.min()) * 90.0
    close(by_output(rho["stem.weight"]), wanted[:6])
    close(by_output(rho["conv1.weight"]), wanted[6:])


@pytest.mark.parametrize("case", ["groups", "layers", "excluded", "dense"])
def test_what_is_never_pruned_does_not_set_the_map(case):
    """A head of any norm, a layer that is excluded, a run that prunes nothing."""
    net = network()
    with torch.no_grad():
        net.head.weight.mul_(100.0)
    method, given = CHANNELS, {}
    if case == "groups":
        given["groups"] = groups()
    elif case == "excluded":
        method, given["exclude"] = Method(**LATER), ["head"]
    elif case == "dense":
        method = methods.dense()
    rho = radii(net, WIDE, method, **given)
    convs = torch.cat([by_output(rho[n]) for n in ("stem.weight", "conv1.weight", "conv2.weight")])
    assert float(convs.min()) == pytest.approx(10.0, rel=0.02)
    assert float(convs.max()) == pytest.approx(100.0, rel=0.02)


@pytest.mark.parametrize("grouped", [True, False])
def test_as_much_lies_on_norms_as_under_asam(grouped):
    """ResNet-20, random weights: of ASAM's squared perturbation most lies on norms."""
    net, x = resnet(), torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    given = {"groups": steppe.channel_groups(net, x[:1])} if grouped else {}
    share, length = {}, {}
    for perturb in (Asam(rho=2.0), AdaSap()):
        squares = {
            n: float(e.square().sum()) for n, e in perturbed(net, perturb, x=x, **given).items()
        }
        whole = sum(squares.values())
        share[perturb.name] = sum(v for n, v in squares.items() if "bn" in n) / whole
        length[perturb.name] = whole**0.5
    assert share["asam"] > 0.5
    assert share["adasap"] > 0.5 * share["asam"]
    assert length["adasap"] > 0.3 * length["asam"], "far less is perturbed than in the last phase"


@pytest.mark.parametrize("norm", ["global", "neuron"])
@pytest.mark.parametrize("scope", ["network", "layer"])
def test_the_order_of_channels_does_not_matter(norm, scope):
    net = network().double()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    other = copy.deepcopy(net)
    with torch.no_grad():
        for part in (other.conv1, other.norm1):
            part.weight.copy_(part.weight[order])
            part.bias.copy_(part.bias[order])
        other.conv2.weight.copy_(other.conv2.weight[:, order])
    one, two = (
        perturbed(n, AdaSap(norm=norm, scope=scope), x=X.double(), groups=groups())
        for n in (net, other)
    )
    torch.testing.assert_close(two["conv1.weight"], one["conv1.weight"][order])
    torch.testing.assert_close(two["norm1.bias"], one["norm1.bias"][order])
    torch.testing.assert_close(two["conv2.weight"], one["conv2.weight"][:, order])


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("psi", ["l2", {"name": "taylor", "variant": "elementwise"}])
def test_equal_radii_are_asam_bit_for_bit(grouped, psi):
    given = {"groups": groups()} if grouped else {}
    ours = perturbed(network(), AdaSap(rho_min=0.5, rho_max=0.5, psi=psi), **given)
    theirs = perturbed(network(), Asam(rho=0.5), **given)
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)


def trained(perturb, steps, state=None, total=8, **given):
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    method = Method(
        structure="channel",
        schedule={"name": "linear", "end": 0.5},
        budget={"name": "pooled", "sparsity": 0.4},
        perturb=perturb,
    )
    s = steppe.sparsify(net, optimizer, method, total, **given)
    if state is not None:
        net.load_state_dict(state[0])
        s.load_state_dict(state[1])
    for _ in range(steps):
        s.step(lambda: F.cross_entropy(net(X), Y))
    return net, s


@pytest.mark.parametrize("grouped", [True, False])
def test_a_score_of_neurons_that_reads_gradients_goes_on_bit_for_bit(grouped):
    """It is gathered to the end of its phase, after the last cut; the run's own needs none."""
    given = {"groups": groups()} if grouped else {}
    perturb = AdaSap(psi="fisher", rho_max=0.2)
    whole, s = trained(perturb, 8, **given)
    half, sparsifier = trained(perturb, 5, **given)
    state = copy.deepcopy((half.state_dict(), sparsifier.state_dict()))
    again, t = trained(perturb, 3, state, **given)
    for n, p in whole.named_parameters():
        assert torch.equal(p, dict(again.named_parameters())[n]), n
    for n, v in s.state_dict()["statistics"]["squared_gradient"].items():
        assert torch.equal(v, t.state_dict()["statistics"]["squared_gradient"][n])
    plain, _ = trained(AdaSap(rho_max=0.2), 8, **given)
    assert not torch.equal(plain.conv1.weight, whole.conv1.weight)


@pytest.mark.parametrize("frozen", ["norm1.weight", "norm.weight"])
def test_a_score_is_chosen_for_the_channels_that_are_trained(frozen):
    """A frozen group is left out, and the other one has its own form of Taylor."""
    net = network()
    net.get_parameter(frozen).requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.01)
    method = CHANNELS.replace(score="taylor", perturb=AdaSap(psi="taylor", rho_max=0.2))
    s = steppe.sparsify(net, optimizer, method, 4, groups=groups())
    assert any("frozen" in note for note in s.notes)
    for _ in range(4):
        s.step(lambda: F.cross_entropy(net(X), Y))
    assert s.finish().zeros


def test_every_score_that_can_be_gathered_ranks_neurons():
    for psi in ("magnitude", "l1", "l2", "snip", "fisher", "taylor", "taylor_gate", "bn_gamma"):
        trained({"name": "adasap", "psi": psi, "rho_max": 0.2}, 2, groups=groups(), total=4)
    wanted = network().norm1.weight.detach().double()
    rho = radii(network(), AdaSap(rho_min=10.0, rho_max=100.0, psi="bn_gamma"), groups=inner())
    share = (wanted - wanted.min()) / (wanted.max() - wanted.min())
    close(by_output(rho["conv1.weight"]), 100.0 - 90.0 * share)


def inner():
    return groups()[1:]


def test_a_phase_is_told_too_and_written_down():
    phases = [[0.5, {"name": "adasap", "psi": {"name": "fisher"}, "rho_max": 0.2}], [1.0, "none"]]
    perturb = {"name": "phased", "phases": phases}
    _, s = trained(perturb, 8, groups=groups())
    assert s.method.to_dict()["perturb"]["phases"][0][1]["psi"]["name"] == "fisher"
    assert Method.from_dict(s.method.to_dict()) == s.method
    # nothing is gathered once nobody reads it
    half = trained(perturb, 4, groups=groups())[1].state_dict()["statistics"]["squared_gradient"]
    whole = s.state_dict()["statistics"]["squared_gradient"]
    assert all(torch.equal(half[n], whole[n]) for n in whole)


def test_channels_that_went_have_no_radius_and_no_say():
    net, s = trained("none", 8, groups=groups())
    s.finish()
    gone = ~net.conv1.weight.flatten(1).any(1)
    assert gone.any()
    rho = radii(net, WIDE, groups=groups())
    assert not rho["conv1.weight"][gone].nan_to_num().any()
    alive = torch.cat(
        [
            by_output(rho[n])[net.get_parameter(n).flatten(1).any(1)]
            for n in ("stem.weight", "conv1.weight")
        ]
    )
    assert float(alive.max()) == pytest.approx(100.0, rel=0.02)


@pytest.mark.parametrize("scope", ["network", "layer"])
def test_where_no_neuron_is_left_all_have_one_radius(scope):
    given = {"exclude": ["stem", "conv*"]}
    ours = perturbed(network(), AdaSap(rho_min=0.5, scope=scope), methods.dense(), **given)
    theirs = perturbed(network(), Asam(rho=0.5), methods.dense(), **given)
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)


def test_products_of_parts_are_neurons_of_their_weight():
    """PILoT trains m and w in the place of x = m w: both have the radius of x's row."""
    seen = []
    method = methods.pilot(sparsity=0.5).replace(perturb=AdaSap(rho_max=0.1))
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    with pytest.MonkeyPatch.context() as patch:
        among = AdaSap.among
        patch.setattr(AdaSap, "among", lambda *args: seen.append(args[-1]) or among(*args))
        s = steppe.sparsify(net, optimizer, method, total_steps=2, steps_per_epoch=1)
        s.step(lambda: (F.cross_entropy(net(X), Y), 0.5))
    (neurons,) = seen
    assert isinstance(neurons, Neurons)
    parts = [n for n, p in net.named_parameters() if n.startswith("conv1.par") and p.ndim > 1]
    assert len(parts) == 2
    for name in parts:
        numbers = neurons.members[name].flatten()
        assert torch.equal(numbers, neurons.members["norm1.weight"])


@pytest.mark.parametrize("name", ["spred", "pilot"])
def test_a_step_after_the_end_knows_the_folded_weights(name, monkeypatch):
    """The parts are gone then, and the weights themselves are the neurons' again."""
    method = getattr(methods, name)(sparsity=0.5).replace(perturb=AdaSap(rho_max=0.1))
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    s = steppe.sparsify(net, optimizer, method, total_steps=4, steps_per_epoch=1)
    s.step(lambda: (F.cross_entropy(net(X), Y), 0.5))
    s.finish()
    seen = []
    among = AdaSap.among
    monkeypatch.setattr(AdaSap, "among", lambda *args: seen.append(args[-1]) or among(*args))
    with pytest.warns(UserWarning, match="after finish"):
        s.step(lambda: (F.cross_entropy(net(X), Y), 0.5))
    (neurons,) = seen
    assert torch.equal(
        neurons.members["conv1.weight"].flatten(), neurons.members["norm1.weight"].flatten()
    )


def test_a_norm_behind_a_grouped_transposed_convolution_has_its_outputs_radii():
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(4, 6, 3, groups=2)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), up, nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1))
    net = nn.Sequential(net, nn.Flatten(), nn.Linear(6, 4))
    nn.init.uniform_(net[0][2].weight, 0.5, 1.5)
    rho = radii(net, WIDE)
    outputs = rho["0.1.weight"].unflatten(0, (2, 2)).transpose(1, 2).flatten(0, 1)
    close(by_output(outputs), by_output(rho["0.2.weight"]))
    assert rho["0.2.weight"].std() > 5


def test_rows_of_layers_of_every_layout():
    for layer in (
        Layer("a", (4, 3, 2, 2)),
        Layer("b", (3, 4), transposed=True),
        Layer("c", (6, 2, 3, 3), transposed=True, groups=2),
        Layer("d", (2, 3, 5), stacked=True),
        Layer("e", (2, 5, 3), stacked=True, transposed=True),
    ):
        numbers = rows_of(layer).expand(layer.shape)
        wanted = torch.arange(layer.rows)[:, None].expand(-1, layer.columns)
        assert torch.equal(layer.flat(numbers), wanted), layer


def test_what_cannot_see_neurons_is_refused_before_the_first_step():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def run(psi, **given):
        steppe.sparsify(net, optimizer, CHANNELS.replace(perturb=AdaSap(psi=psi)), 4, **given)

    with pytest.raises(SteppeError, match=r"bn_gamma of neurons.*single layers"):
        run("bn_gamma")
    trunk = [
        steppe.core.group.Group(g.name, tuple(s for s in g.slices if s.role != "norm"))
        for g in groups()
    ]
    with pytest.raises(SteppeError, match=r"score taylor_gate reads.*stem\.weight"):
        run("taylor_gate", groups=trunk)
    for psi in ("wanda", "kfac"):  # and what the error says works
        with pytest.raises(SteppeError, match=r"psi l2, fisher or taylor$"):
            run(psi, groups=groups())
    for psi in ("l2", "fisher", "taylor"):
        run(psi, groups=groups())
    with pytest.raises(SteppeError, match="over all ranks"):
        run("fisher", options=StepOptions(sync="local"))
    with pytest.raises(SteppeError, match="unknown score"):
        AdaSap(psi="worth")
    phases = ((0.5, AdaSap(psi="fisher")), (1.0, "none"))
    for perturb in (AdaSap(psi="fisher"), {"name": "phased", "phases": phases}):
        with pytest.raises(SteppeError, match=r"trains m and w.*score fisher of neurons.*psi l2"):
            methods.spred(sparsity=0.5).replace(perturb=perturb)
