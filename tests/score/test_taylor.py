"""Many things called Taylor, beside loops that say what each is, and beside the loss itself."""

import copy

import pytest
import torch
from torch import nn

import steppe
from steppe import Method, SteppeError
from steppe.core.layer import Layer
from steppe.core.statistic import STATISTICS
from steppe.score.taylor import GATES, NEEDS, SUMS, Taylor
from steppe.vision.data import load
from steppe.vision.loader import Loader
from steppe.vision.models import build, load_weights

BUDGET = {"name": "pooled", "sparsity": 0.5}


def method(variant, structure="channel"):
    return Method(score={"name": "taylor", "variant": variant}, structure=structure, budget=BUDGET)


class Block(nn.Module):
    def __init__(self, norm, middle=None):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(8, 12, 3, padding=1, bias=False), norm(12)
        self.conv2, self.norm2 = nn.Conv2d(12, 8, 3, padding=1, bias=False), norm(8)
        self.middle = middle() if middle else nn.Identity()

    def forward(self, x):
        inner = self.middle(self.norm1(self.conv1(x)).relu())
        return (x + self.norm2(self.conv2(inner))).relu()


class PreActivation(nn.Module):
    """Norms read the trunk; nothing else does."""

    def __init__(self, norm):
        super().__init__()
        self.norm1, self.conv1 = norm(8), nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.norm2, self.conv2 = norm(12), nn.Conv2d(12, 8, 3, padding=1, bias=False)

    def forward(self, x):
        return x + self.conv2(self.norm2(self.conv1(self.norm1(x).relu())).relu())


def residual(norm=nn.BatchNorm2d, middle=None):
    """A small residual network; scales and shifts are not those of a start."""
    blocks = (Block(norm, middle), Block(norm, middle))
    return scaled(
        nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1, bias=False), norm(8), nn.ReLU(), *blocks),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
        )
    )


def pre_activation():
    blocks = (PreActivation(nn.BatchNorm2d), PreActivation(nn.BatchNorm2d))
    return scaled(
        nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1, bias=False), *blocks, nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
        )
    )


class Dense(nn.Module):
    """Its norms read channels of several layers, one behind the other."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 12, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(20), nn.Conv2d(20, 12, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(32), nn.Linear(32, 4)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x, self.conv1(self.norm1(x).relu())], 1)
        x = torch.cat([x, self.conv2(self.norm2(x).relu())], 1)
        return self.head(self.norm(x).relu().mean((2, 3)))


def scaled(net):
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                module.weight.uniform_(0.2, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return net


def depthwise(normed=True):
    """What passes the channels on one by one."""
    behind = [nn.BatchNorm2d(12)] if normed else []
    return nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, groups=12), *behind, nn.ReLU())


def batches(number=4, size=32):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 3, 8, 8, generator=generator), torch.arange(size) % 4)
        for _ in range(number)
    ]


def loss(net, x, y):
    outputs = net(x)
    return nn.functional.cross_entropy(outputs.float() if x.dtype == torch.bfloat16 else outputs, y)


def late(variant="auto"):
    """The published method; no cut is made in the first steps."""
    return steppe.methods.taylor(sparsity=0.5, variant=variant, end=1.0, every=500)


def ranked(net, data, variant="auto", groups=None):
    """(group name -> saliency of each unit, groups) after a run in which nothing moves."""
    net = copy.deepcopy(net)
    groups = steppe.channel_groups(net, data[0][0][:2]) if groups is None else groups
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    sparsifier = steppe.sparsify(net, optimizer, late(variant), 1000, groups=groups)
    for x, y in data:
        sparsifier.step(lambda x=x, y=y: loss(net, x, y))
    select = sparsifier.selector
    made = select.units(select.method.score, sparsifier.weights)
    return {name: units.abs() for name, units in made.items()}, groups


def agreement(one, other):
    """Spearman's rank correlation."""
    ranks = torch.stack([t.double().argsort().argsort().double() for t in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


def agree(net, data):
    """How far the ranks of all channels in float32 and in bfloat16 agree."""
    groups = steppe.channel_groups(net, data[0][0][:2])
    units = []
    for dtype in (torch.float32, torch.bfloat16):
        typed = [(x.to(dtype), y) for x, y in data]
        made, _ = ranked(copy.deepcopy(net).to(dtype), typed, groups=groups)
        units.append(torch.cat(list(made.values())))
    return agreement(*units)


@pytest.mark.parametrize("kind", [residual, pre_activation])
def test_ranks_in_two_data_types_agree(kind):
    """Rounding errors rank differently in each; what the loss says does not."""
    assert agree(kind(), batches()) > 0.9


def test_ranks_of_a_trained_network_agree(shared):
    data = load(str(shared / "data/cifar10-jpeg"), train_size=192, test_size=10)
    net = build("resnet20", 10)
    load_weights(net, shared / "models/cifar10-resnets/resnet20.safetensors")
    assert agree(net, [*Loader.of(data, "train", 64).epoch(0)]) > 0.9


def switched(net, group, unit, factor, roles=("norm",)):
    """The network with a gate on one coupled channel, behind all its norms, that is not at 1."""
    net = copy.deepcopy(net)
    tensors = dict(net.named_parameters())
    with torch.no_grad():
        for s in group.slices:
            owner = net.get_submodule(s.name.rpartition(".")[0])
            if s.role in roles and not isinstance(owner, nn.PReLU):
                tensors[s.name][s.index[unit]] *= factor
    return net


def lost(net, group, unit, x, y, roles=("norm",), eps=1e-5):
    """dL/dz of that gate, from the losses on both sides of 1."""
    with torch.no_grad():
        more, less = (loss(switched(net, group, unit, 1 + e, roles), x, y) for e in (eps, -eps))
    return (more - less) / (2 * eps)


NETS = {
    "post-norm": residual,
    "pre-activation": pre_activation,
    "dense": lambda: scaled(Dense()),
    "slopes that are no norm": lambda: residual(middle=lambda: nn.PReLU(12)),
    "depthwise, normed": lambda: residual(middle=depthwise),
    "depthwise, bare": lambda: residual(middle=lambda: depthwise(normed=False)),
}


@pytest.mark.parametrize("kind", NETS)
def test_is_what_the_loss_loses_to_first_order(kind):
    """Beside the loss itself, with a channel switched off by a hair behind all norms at once."""
    net, (x, y) = NETS[kind]().double(), batches(1)[0]
    for norm in net.modules():
        if isinstance(norm, nn.modules.batchnorm._NormBase):
            norm.eps = 1e-12  # up to it a norm undoes the scale of a layer before it
    made, groups = ranked(net, [(x.double(), y)])
    assert [len(v) for v in made.values()] == [8, 12, 12]
    for group in groups:
        for unit in range(0, group.units, 3):
            expected = lost(net, group, unit, x.double(), y, eps=1e-6).square()  # short of a kink
            torch.testing.assert_close(made[group.name][unit], expected, rtol=1e-4, atol=1e-12)


def test_a_layer_without_norm_that_adds_to_the_channels_counts_in(grouped):
    """The trunk of this network has a norm behind the stem and none behind the branch."""
    net, (x, y) = grouped.Net().double(), grouped.data()
    made, (trunk, _) = ranked(net, [(x.double(), y)], groups=grouped.groups())
    for unit in range(trunk.units):
        # the filter in front of the norm does not matter
        expected = lost(net, trunk, unit, x.double(), y, ("norm", "output", "bias")).square()
        torch.testing.assert_close(made[trunk.name][unit], expected, rtol=1e-3, atol=1e-12)


class Branch(nn.Module):
    """A trunk of two layers, with as many norms as layers, but not one behind each.

    Args:
        read: whether another layer reads the first one's output beside its norm.
        twice: whether the first layer has both norms, one behind the other.
    """

    def __init__(self, read=False, twice=True):
        super().__init__()
        self.one, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.norm2 = nn.BatchNorm2d(8) if twice else nn.Identity()
        self.two = None if read else nn.Conv2d(3, 8, 3, padding=1)
        self.beside = nn.Conv2d(8, 5, 1) if read else None
        self.head, self.side = nn.Linear(8, 4), nn.Linear(5, 4)

    def forward(self, x):
        one = self.one(x)
        trunk = self.norm2(self.norm1(one).relu())
        trunk = trunk if self.two is None else trunk + self.two(x)
        out = self.head(trunk.relu().mean((2, 3)))
        return out if self.beside is None else out + self.side(self.beside(one).mean((2, 3)))


@pytest.mark.parametrize("given", [{}, {"read": True}, {"read": True, "twice": False}])
def test_each_layer_and_each_reader_without_a_norm_counts_in(given):
    torch.manual_seed(0)
    net, (x, y) = scaled(Branch(**given)).double(), batches(1)[0]
    made, groups = ranked(net, [(x.double(), y)])
    trunk = groups[0]
    for unit in range(trunk.units):
        expected = lost(net, trunk, unit, x.double(), y, ("norm", "output", "bias")).square()
        torch.testing.assert_close(made[trunk.name][unit], expected, rtol=1e-3, atol=1e-12)


def test_a_norm_that_keeps_scales_counts_alone():
    """With fixed statistics in the norms that read the trunk, a layer's own sum is in theirs."""
    net, (x, y) = pre_activation().double().eval(), batches(1)[0]
    net.train = lambda mode=True: net
    made, groups = ranked(net, [(x.double(), y)])
    for group in groups:
        expected = lost(net, group, 1, x.double(), y).square()
        torch.testing.assert_close(made[group.name][1], expected, rtol=1e-4, atol=1e-12)


def bare():
    """Coupled channels, no norm."""
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 4))


def beside_products(net, x, y):
    """(saliencies, groups, gradients times weights) of one batch."""
    made, groups = ranked(net, [(x, y)])
    net.zero_grad()
    loss(net, x, y).backward()
    return made, groups, {n: p.grad * p.detach() for n, p in net.named_parameters()}


WITHOUT = {
    "no norm": bare,
    "norms without scales": lambda: residual(lambda n: nn.BatchNorm2d(n, affine=False)),
    "norms without tensors": lambda: residual(nn.InstanceNorm2d),
}


@pytest.mark.parametrize("kind", WITHOUT)
def test_without_a_gate_elementwise_squares(kind):
    net = WITHOUT[kind]()
    x, y = (torch.randn(16, 6), torch.arange(16) % 4) if kind == "no norm" else batches(1)[0]
    made, groups, products = beside_products(net, x, y)
    for group in groups:
        squares = group.members({n: p.square() for n, p in products.items()}).sum(1)
        torch.testing.assert_close(made[group.name], squares, rtol=1e-4, atol=1e-12)


def test_some_channels_with_a_gate_and_some_without():
    layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 7, 3), nn.ReLU()
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 4)
    net = scaled(nn.Sequential(*layers, *head))
    made, _, products = beside_products(net, *batches(1)[0])
    gate = (products["1.weight"] + products["1.bias"]).square()
    torch.testing.assert_close(made["0.weight"], gate, rtol=1e-4, atol=1e-12)
    squares = products["3.weight"].square().sum((1, 2, 3))
    torch.testing.assert_close(made["3.weight"], squares, rtol=1e-4, atol=1e-12)


def test_frozen_scales_are_no_gates():
    net = residual()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    groups = steppe.channel_groups(net, batches(1)[0][0][:2])
    score, _ = Taylor().for_network(net, True, groups)
    assert score == Taylor(variant="elementwise_squared")


def test_single_weights_and_channels_of_single_layers():
    net = residual()
    for structure, expected in (
        ("unstructured", Taylor()),
        ("block:2x2", Taylor()),
        ("channel", Taylor(variant="elementwise_squared")),
    ):
        chosen = method("auto", structure)
        assert chosen.score.for_network(net, chosen.structure.whole_outputs, ()) == (expected, [])
    assert Taylor().needs == Taylor(variant="mean").needs == ("gradient",)


def begun(variant, net, groups=None, structure="channel"):
    """A sparsifier with that variant."""
    groups = steppe.channel_groups(net, torch.zeros(2, 3, 8, 8)) if groups is None else groups
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return steppe.sparsify(net, optimizer, method(variant, structure), 2, groups=groups)


@pytest.mark.parametrize("variant", SUMS)
def test_sums_over_filters_in_front_of_norms_are_refused(variant):
    nets = residual(), residual(lambda n: nn.BatchNorm2d(n, affine=False)), pre_activation()
    for net in (*nets, residual(middle=depthwise)):
        with pytest.raises(SteppeError, match=f"variant {variant} of taylor.*auto"):
            begun(variant, net)


@pytest.mark.parametrize("variant", SUMS)
def test_sums_over_filters_are_named_where_a_norm_follows_some(variant, grouped):
    (note,) = begun(variant, grouped.Net(), grouped.groups()).notes
    assert f"variant {variant} of taylor" in note
    assert "of the channels of stem.weight, conv1.weight" in note
    (note,) = begun(variant, residual(nn.InstanceNorm2d)).notes
    assert "before 1, 3.norm1, 3.norm2 and 2 more" in note
    single = begun(variant, residual(), ()).notes
    assert any("before 1, 3.norm1, 3.norm2 and 2 more" in note for note in single)
    for cancels_nothing in ("auto", "elementwise"):
        assert not any("rounding" in n for n in begun(cancels_nothing, residual(), ()).notes)


def test_sums_are_welcome_where_no_norm_undoes_them():
    net = bare()
    groups = steppe.channel_groups(net, torch.zeros(2, 6))
    layered = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    for variant in SUMS:
        assert begun(variant, net, groups).notes == []
        assert not any("rounding" in n for n in begun(variant, layered, ()).notes)
    assert not any("rounding" in n for n in begun("mean", residual(), (), "unstructured").notes)


@pytest.mark.parametrize("variant", GATES)
def test_gates_that_are_not_there_are_named_before_the_run(variant):
    net = bare()
    groups = steppe.channel_groups(net, torch.zeros(2, 6))
    with pytest.raises(SteppeError, match=r"no such norm for 0.weight, 2.weight.*auto"):
        begun(variant, net, groups)


@pytest.mark.parametrize("name", ["taylor", "halp", "smcp", "adasap"])
def test_published_methods_take_the_gate(name):
    net = residual()
    chosen = steppe.methods.make(name, sparsity=0.5, score="taylor", budget="pooled")
    groups = steppe.channel_groups(net, torch.zeros(2, 3, 8, 8))
    score, notes = chosen.score.for_network(net, chosen.structure.whole_outputs, groups)
    assert score.needs == ("gate_or_squares",)
    assert notes == []


@pytest.mark.parametrize(
    ("coupled", "need"), [(True, "gate_or_squares"), (False, "product_square")]
)
def test_radii_that_come_from_taylor_are_no_noise(coupled, need):
    """AdaSAP's neurons are channels, whatever is pruned."""
    net, (x, y) = residual(), batches(1)[0]
    groups = steppe.channel_groups(net, x[:2]) if coupled else ()
    structure = "channel" if coupled else "unstructured"
    for psi in ("taylor", {"name": "taylor", "variant": "mean"}):
        chosen = steppe.methods.adasap(0.5, psi=psi, warmup=0.5, pruned=0.9, structure=structure)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        if coupled and psi != "taylor":
            with pytest.raises(SteppeError, match="variant mean of taylor sums"):
                steppe.sparsify(net, optimizer, chosen, 4, groups=groups)
            continue
        sparsifier = steppe.sparsify(net, optimizer, chosen, 4, groups=groups)
        said = [note for note in sparsifier.notes if "rounding" in note]
        assert len(said) == (psi != "taylor")
        if psi == "taylor":
            assert need in sparsifier._statistics.statistics
            for _ in range(2):
                assert sparsifier.step(lambda: loss(net, x, y)).isfinite()


@pytest.mark.parametrize("variant", sorted({*NEEDS} - {"auto", *GATES}))
def test_beside_a_loop_over_channels(grouped, variant):
    """One batch: the mean is the value itself."""
    net = grouped.Net()
    select = grouped.selector(net, method(variant))
    weights = grouped.observe(net, select, [slice(0, 8)])
    grads = {n: p.grad for n, p in net.named_parameters()}
    score = select.method.score
    for group in grouped.groups():
        saliencies = {
            s.name: select.saliency(score, s.name, weights[s.name])
            for s in group.slices
            if score.reads(s)
        }
        assert all(v.shape == weights[n].shape for n, v in saliencies.items())
        made = score.reduce(score.members(group, saliencies))
        for unit in range(group.units):
            sums, parts = [], []
            for s in group.slices:
                if s.role == "output":
                    products = [
                        float(g) * float(w)
                        for g, w in zip(
                            grads[s.name][unit].flatten(),
                            weights[s.name][unit].flatten(),
                            strict=True,
                        )
                    ]
                    parts += products
                    sums.append(sum(products))
            expected = {
                "mean": abs(sum(parts)),
                "squared": sum(v * v for v in sums),
                "absolute": sum(abs(v) for v in sums),
                "elementwise": sum(abs(v) for v in parts),
                "elementwise_squared": sum(v * v for v in parts),
            }[variant]
            assert abs(float(made[unit])) == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("variant", sorted({*NEEDS} - {"auto"}))
def test_the_mean_is_taken_of_what_the_variant_says(grouped, variant):
    """Two batches that pull to opposite sides cancel in the mean, and only there."""
    select = grouped.selector(grouped.Net(), method(variant))
    (statistic,) = select.statistics.values()
    statistic.decay = 0.5
    gates = variant in GATES
    name, weight = (
        ("norm1.weight", torch.ones(8)) if gates else ("stem.weight", torch.ones(6, 3, 3, 3))
    )
    for sign in (1.0, -1.0):
        statistic.observe({name: weight}, {name: 2.0 * sign * weight})
    units = select.method.score.reduce(
        select.saliency(select.method.score, name, weight).reshape(1 if gates else 6, -1)
    )
    expected = {
        "mean": 0.0,
        "squared": 54.0**2,
        "absolute": 54.0,
        "elementwise": 54.0,
        "elementwise_squared": 27 * 4.0,
        "gate": 8 * 4.0,
        "gate_absolute": 8 * 2.0,
    }[variant]
    torch.testing.assert_close(units, torch.full(units.shape, expected))


def test_outputs_are_where_the_layer_has_them():
    """Transposed convolutions store inputs first."""
    statistic = STATISTICS["output_square"]()
    module = nn.ConvTranspose2d(3, 5, 2)
    statistic.prepare({"w": (Layer("w", tuple(module.weight.shape)), module)})
    grad = torch.randn(3, 5, 2, 2)
    statistic.observe({"w": module.weight.detach()}, {"w": grad})
    expected = (grad * module.weight.detach()).sum((0, 2, 3)).square()
    torch.testing.assert_close(statistic.values["w"].flatten(), expected)


def test_half_precision_does_not_underflow():
    small = torch.full((2, 2), 1e-4, dtype=torch.float16)
    for need in ("output_square", "product_square"):
        statistic = STATISTICS[need]()
        statistic.prepare({"w": (Layer("w", (2, 2)), nn.Linear(2, 2))})
        statistic.observe({"w": small}, {"w": small})
        assert (statistic.values["w"] > 0).all()


def test_wrong_ones_are_refused():
    with pytest.raises(SteppeError, match="variant"):
        Taylor(variant="second")
    for variant in ("squared", "absolute", *GATES):
        with pytest.raises(SteppeError, match="whole channels"):
            method(variant, "unstructured")
    assert method("elementwise", "unstructured").score.needs == ("absolute_product",)
    with pytest.raises(SteppeError, match="variant is an option of score taylor"):
        steppe.methods.taylor(0.5, score="l2", variant="gate")
