"""The two passes: what is drawn, what is perturbed, what a second one leaves behind."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import steppe
from grouped import Net, groups
from looped import looped
from steppe import MaskKeeper, StepOptions, SteppeError, methods
from steppe.core.norm import global_norm
from steppe.perturb.adasap import AdaSap
from steppe.perturb.asam import Asam
from steppe.perturb.phased import Phased
from steppe.perturb.sam import Sam

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(16) % 4
PERTURBS = {
    "sam": Sam(rho=0.3),
    "asam": Asam(rho=0.3),
    "adasap": AdaSap(rho_min=0.3, rho_max=0.3),
    "adasap-neuron": AdaSap(norm="neuron"),
}
each_perturb = pytest.mark.parametrize("perturb", PERTURBS.values(), ids=PERTURBS)


def network(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.Dropout(dropout), nn.ReLU(), nn.Linear(6, 4))


def sparsifier_of(model, perturb, optimizer=None, steps=9, **given):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    method = methods.dense().replace(perturb=perturb)
    return steppe.sparsify(model, optimizer, method, steps, **given)


def loss(model):
    return F.cross_entropy(model(X), Y)


class Watch:
    """A closure that remembers where it was called, and what it drew."""

    def __init__(self, model, value=loss):
        self.model, self.value, self.places, self.drawn = model, value, [], []

    def __call__(self):
        self.places.append([p.detach().clone() for p in self.model.parameters()])
        self.drawn.append(torch.rand(2))
        return self.value(self.model)

    @property
    def eps(self):
        return [b - a for a, b in zip(*self.places[-2:], strict=True)]


@each_perturb
def test_the_second_pass_draws_the_same(perturb):
    model = network(0.5)
    watch = Watch(model)
    sparsifier = sparsifier_of(model, perturb)
    sparsifier.step(watch)
    after = torch.rand(3)
    assert torch.equal(*watch.drawn)
    plain = network(0.5)
    sparsifier_of(plain, methods.dense().perturb).step(Watch(plain))
    assert torch.equal(after, torch.rand(3)), "what is drawn next depends on the second pass"


def test_fresh_draws_are_an_option():
    model = network(0.5)
    watch = Watch(model)
    sparsifier = sparsifier_of(model, Sam(), options=StepOptions(draws="fresh"))
    sparsifier.step(watch)
    assert not torch.equal(*watch.drawn)
    torch.manual_seed(0)
    network(0.5)
    with pytest.raises(SteppeError, match="draws is same or fresh"):
        StepOptions(draws="other")


def test_dropout_drops_the_same_in_each_micro_batch():
    model, masks = network(), []

    def closure(rows):
        dropped = F.dropout(torch.ones(20))
        masks.append(dropped)
        return (model(X[rows]).square().mean(1) * dropped[: len(X[rows])]).mean()

    sparsifier = sparsifier_of(model, Sam(), steps=1)
    sparsifier.step(lambda: closure(slice(0, 8)), lambda: closure(slice(8, 16)))
    first, second, again, once_more = masks
    assert torch.equal(first, again)
    assert torch.equal(second, once_more)
    assert not torch.equal(first, second)


@each_perturb
def test_what_is_unfrozen_or_added_later_is_perturbed_and_clipped(perturb):
    model = network()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[0].parameters(), lr=1.0)
    optimizer.param_groups[0]["params"].append(model[3].weight)
    sparsifier = sparsifier_of(model, perturb, optimizer, clip_grad_norm=1e-3)
    watch = Watch(model)
    sparsifier.step(watch)
    assert [bool(e.any()) for e in watch.eps] == [False, False, True, False]
    model[0].requires_grad_(True)
    optimizer.add_param_group({"params": [model[3].bias]})
    before = [p.detach().clone() for p in model.parameters()]
    watch.value = lambda model: 100 * loss(model)
    sparsifier.step(watch)
    assert all(bool(e.any()) for e in watch.eps)
    moved = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
    assert float(global_norm(moved)) <= 1.001e-3
    assert all(bool(m.any()) for m in moved)


def test_a_pruned_weight_that_is_replaced_asks_for_a_new_sparsifier():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = steppe.sparsify(model, optimizer, methods.gmp(sparsity=0.5), 4)
    sparsifier.step(lambda: loss(model))
    model.load_state_dict(copy.deepcopy(model.state_dict()))  # in place: nothing changed
    sparsifier.step(lambda: loss(model))
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    with pytest.raises(SteppeError, match=r"another tensor in the place of 0\.weight"):
        sparsifier.step(lambda: loss(model))


def test_a_bias_may_be_replaced_where_the_optimizer_knows():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sparsifier = steppe.sparsify(model, optimizer, methods.gmp(sparsity=0.5), 4)
    sparsifier.step(lambda: loss(model))
    model[3].bias = nn.Parameter(torch.zeros(4))
    optimizer.param_groups[0]["params"][-1] = model[3].bias
    sparsifier.step(lambda: loss(model))
    assert model[3].bias.any()


@each_perturb
def test_complex_parameters_are_perturbed_as_pairs_of_real_ones(perturb):
    class Real(nn.Module):
        def __init__(self, z):
            super().__init__()
            self.weight = nn.Parameter(torch.view_as_real(z).clone())

        def value(self):
            return torch.view_as_complex(self.weight)

    class Complex(nn.Module):
        def __init__(self, z):
            super().__init__()
            self.weight = nn.Parameter(z.clone())

        def value(self):
            return self.weight

    z, x = torch.randn(4, 8, dtype=torch.cfloat), X.to(torch.cfloat)

    def value(model):
        return (x @ model.value().mT).abs().square().mean() + model.value().real.sum()

    eps = []
    for model in (Complex(z), Real(z)):
        watch = Watch(model, value)
        head = nn.Linear(1, 1)  # what sparsify looks for
        model.head = head
        sparsifier_of(model, perturb).step(watch)
        eps.append(watch.eps[0])
    if isinstance(perturb, Sam):
        torch.testing.assert_close(torch.view_as_real(eps[0]), eps[1])
    assert float(global_norm([eps[0]])) > 0
    if isinstance(perturb, Sam):
        assert float(global_norm([eps[0]])) == pytest.approx(0.3, rel=1e-5)


def test_asam_of_complex_parameters():
    w, g = torch.randn(3, 2, dtype=torch.cfloat), torch.randn(3, 2, dtype=torch.cfloat)
    (eps,) = Asam(rho=0.5, eta=0.1).perturbation([w], [g], ["weight"])
    t = w.abs() + 0.1
    length = (t * g).abs().square().sum().sqrt()
    torch.testing.assert_close(eps, 0.5 * t * t * g / length)


@each_perturb
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_gradients_give_the_perturbation_of_dense_ones(perturb):
    def run(sparse):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(9, 8, sparse=sparse), nn.Linear(8, 4))
        words = torch.tensor([1, 5, 1, 7])
        watch = Watch(model, lambda m: F.cross_entropy(m(words), Y[:4]))
        sparsifier_of(model, perturb, clip_grad_norm=0.1).step(watch)
        return [*watch.eps, *(p.detach() for p in model.parameters())]

    for a, b in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_a_pull_on_a_sparse_gradient_is_refused_in_one_line():
    model = nn.Sequential(nn.Embedding(9, 8, sparse=True), nn.Linear(8, 4))
    words = torch.tensor([1, 2])
    for method in (methods.admm(sparsity=0.5), methods.pilot(sparsity=0.5, decay="constant")):
        other = copy.deepcopy(model)
        optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
        sparsifier = steppe.sparsify(other, optimizer, method, 3, include=["0", "1"])
        with pytest.raises(SteppeError, match=r"a sparse gradient of 0\.weight\..*\['0\.weight'\]"):
            sparsifier.step(lambda other=other: F.cross_entropy(other(words), Y[:2]))
    masked = steppe.sparsify(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        methods.gmp(sparsity=0.5),
        1,
        include=["0"],
    )
    masked.step(lambda: F.cross_entropy(model(words), Y[:2]))
    assert masked.finish().zeros == 36


@looped(perturb=list(PERTURBS.values()))
def test_gradients_of_zero_perturb_nothing(perturb):
    model = network()
    watch = Watch(model, lambda m: m(X).sum() * 0.0)
    sparsifier_of(model, perturb).step(watch)
    assert not any(e.any() for e in watch.eps)
    assert all(p.isfinite().all() for p in model.parameters())


@looped(perturb=list(PERTURBS.values()))
def test_large_gradients_in_float16(perturb):
    """Their norm has no float16; the radius is kept all the same."""
    model = nn.Linear(64, 64, bias=False).half()
    watch = Watch(model, lambda m: (m.weight * 4e4).sum())
    sparsifier_of(model, perturb, torch.optim.SGD(model.parameters(), lr=0.0)).step(watch)
    size = float(global_norm(watch.eps))
    assert size > 0
    if isinstance(perturb, Sam):
        assert size == pytest.approx(0.3, rel=0.05)


def test_buffers_are_as_after_the_first_pass():
    def run(rho):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3, track_running_stats=True),
            nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3),
            torch.ao.quantization.FakeQuantize(), nn.Flatten(), nn.Linear(48, 4),
        )  # fmt: skip
        model = model.double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        sparsifier = steppe.sparsify(
            model, optimizer, methods.dense(rho=rho), 3, clip_grad_norm=1.0
        )
        x = torch.randn(8, 2, 6, 6, dtype=torch.double)
        for _ in range(3):
            sparsifier.step(
                lambda: F.cross_entropy(model(x[:4]), Y[:4]),
                lambda: F.cross_entropy(model(x[4:]), Y[4:8]),
            )
        return dict(model.named_buffers())

    plain, flat = run(0.0), run(0.5)
    assert all(torch.equal(plain[name], flat[name]) for name in plain)


@pytest.mark.parametrize("width", [4, 300])
@pytest.mark.parametrize("how", ["in place", "data", "data in place"])
def test_frozen_parameters_that_a_forward_pass_moves(how, width):
    """A momentum encoder, updated where it is used."""

    class Momentum(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.query, self.key = nn.Linear(8, width), nn.Linear(8, width)
            self.large = nn.Linear(300, 300)
            self.key.requires_grad_(False)
            self.large.requires_grad_(False)

        def forward(self, x):
            with torch.no_grad():
                for slow, q in zip(self.key.parameters(), self.query.parameters(), strict=True):
                    if how == "in place":
                        slow.lerp_(q, 0.1)
                    elif how == "data":
                        slow.data = slow.data * 0.9 + q.data * 0.1
                    else:
                        slow.data.mul_(0.9).add_(q.data, alpha=0.1)
                self.large.weight.mul_(0.5)
            return (self.query(x) - self.key(x)).square().mean()

    def run(rho):
        model = Momentum()
        optimizer = torch.optim.SGD(model.query.parameters(), lr=0.0)
        sparsifier = steppe.sparsify(model, optimizer, methods.dense(rho=rho), 3)
        for _ in range(3):
            sparsifier.step(lambda: model(X))
        return model

    plain, flat = run(0.0), run(0.5)
    for name, p in plain.named_parameters():
        assert torch.equal(p, flat.get_parameter(name)), name


def test_a_loss_of_other_parameters_is_refused():
    model, other = network(), network()
    sparsifier = sparsifier_of(model, Sam())
    with pytest.raises(SteppeError, match="none of them has a gradient"):
        sparsifier.step(lambda: loss(other))


REMOVED_AT_ONCE = {"name": "growing_reg", "delta": 1.0, "update_every": 1, "hold": 0}
HOLDING = ["hard_mask", "soft_mask", REMOVED_AT_ONCE, "l1", "reparam", "soft_threshold"]
ALL_PERTURBS = PERTURBS | {"phased": Phased(phases=((0.1, "adasap"), (1.0, Sam(rho=0.3))))}
NAMES = ["0.weight", "0.bias", "3.weight", "3.bias"]


def wide():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 60), nn.Dropout(0.0), nn.ReLU(), nn.Linear(60, 4))


def masked_run(coupling, perturb, steps=3, schedule="constant", **given):
    """A few steps of a network with 95 % zeros; where it was, and where it looked, at the last."""
    model = wide()
    budget = {"name": "uniform", "sparsity": 0.95}
    method = steppe.Method(budget=budget, schedule=schedule, coupling=coupling, perturb=perturb)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = steppe.sparsify(model, optimizer, method, 9, **given)
    # the weights as the network sees them, products of parts or not
    seen = []

    def closure():
        own = [model[0].weight, model[0].bias, model[3].weight, model[3].bias]
        seen.append([p.detach().clone() for p in own])
        return loss(model)

    for _ in range(steps):
        sparsifier.step(closure)
    return model, sparsifier, closure, seen


def share_on_zeros(x, there):
    eps = [b - a for a, b in zip(x, there, strict=True)]
    zeros = [e[a == 0] for e, a in zip(eps[::2], x[::2], strict=True)]
    assert sum(z.numel() for z in zeros) > 600
    return float(global_norm(zeros).square() / global_norm(eps).square()), eps


@pytest.mark.parametrize("coupling", HOLDING, ids=lambda c: c if isinstance(c, str) else c["name"])
@pytest.mark.parametrize("perturb", ALL_PERTURBS.values(), ids=ALL_PERTURBS)
def test_a_perturbation_lies_on_what_is_alive(perturb, coupling):
    seen = masked_run(coupling, perturb)[-1]
    share, eps = share_on_zeros(*seen[-2:])
    assert share == 0.0
    assert float(global_norm(eps)) > 0


@pytest.mark.parametrize("coupling", ["hard_mask", "soft_mask", REMOVED_AT_ONCE, "l1"], ids=str)
def test_its_length_is_counted_on_what_is_alive(coupling):
    for perturb, eta in ((Sam(rho=0.3), None), (Asam(rho=0.3), 0.01)):
        lengths = []
        for x, there in zip(*masked_run(coupling, perturb)[-1][-2:], strict=True):
            alive = (x != 0) | (x.ndim == 1)
            scale = 1.0 if eta is None or x.ndim == 1 else (x.abs() + eta)[alive]
            lengths.append((there - x)[alive] / scale)
        assert float(global_norm(lengths)) == pytest.approx(0.3, rel=1e-4)


def test_on_all_is_the_way_of_before():
    """What a plain loop does whose SAM knows nothing of masks."""
    x, there = masked_run("hard_mask", Sam(rho=0.3, on="all"))[-1][-2:]
    share, eps = share_on_zeros(x, there)
    assert share > 0.5
    params = [t.clone().requires_grad_() for t in x]
    named = dict(zip(NAMES, params, strict=True))
    grads = torch.autograd.grad(
        F.cross_entropy(torch.func.functional_call(wide(), named, (X,)), Y), params
    )
    for e, g in zip(eps, Sam(rho=0.3).perturbation(x, list(grads), NAMES), strict=True):
        torch.testing.assert_close(e, g, rtol=1e-4, atol=1e-7)
    with pytest.raises(SteppeError, match="sam perturbs on alive or all weights"):
        Sam(on="zeros")


@pytest.mark.parametrize("coupling", ["admm", "project", "polarisation"])
def test_what_may_return_is_perturbed_bit_for_bit_as_before(coupling):
    runs = [masked_run(coupling, Sam(rho=0.3, on=on))[0] for on in ("alive", "all")]
    assert all(map(torch.equal, *(list(m.state_dict().values()) for m in runs)))


def test_zeros_that_another_holds_are_not_perturbed_either():
    """A pruned model that is trained on: a keeper of masks, or a step after finish."""
    model = wide()
    with torch.no_grad():
        for layer in (model[0], model[3]):
            layer.weight.mul_(torch.rand_like(layer.weight) > 0.95)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    MaskKeeper(model).wrap(optimizer)
    watch = Watch(model)
    sparsifier_of(model, Sam(rho=0.3), optimizer).step(watch)
    share, eps = share_on_zeros(*watch.places[-2:])
    assert share == 0.0
    assert float(global_norm(eps)) == pytest.approx(0.3, rel=1e-5)

    for coupling in ("hard_mask", "admm", "reparam"):
        _, sparsifier, closure, seen = masked_run(coupling, Sam(rho=0.3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # admm's cut comes early here
            sparsifier.finish()
        with pytest.warns(UserWarning, match="its zeros stay"):
            sparsifier.step(closure)
        share, eps = share_on_zeros(*seen[-2:])
        assert share == 0.0
        assert float(global_norm(eps)) == pytest.approx(0.3, rel=1e-5)


def test_removed_channels_are_not_perturbed_nor_their_norms():
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = methods.magnitude(sparsity=0.5, structure="channel", at=0.0).replace(perturb=Sam())
    sparsifier = steppe.sparsify(model, optimizer, method, 4, groups=groups())
    x = torch.randn(8, 3, 6, 6)
    places = []

    def closure():
        places.append({n: p.detach().clone() for n, p in model.named_parameters()})
        return F.cross_entropy(model(x), Y[:8])

    for _ in range(2):
        sparsifier.step(closure)
    before, there = places[-2:]
    for name, mask in sparsifier.state["mask"].items():
        assert torch.equal(there[name][~mask], before[name][~mask]), name
        assert not before[name][~mask].any()
    eps = [there[n] - p for n, p in before.items()]
    assert float(global_norm(eps)) == pytest.approx(0.05, rel=1e-4)
    assert {"norm.weight", "norm.bias"} <= set(sparsifier.state["mask"])
