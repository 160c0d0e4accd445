"""Options of the optimiser reach the parameters that are meant, and only those."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import steppe
from steppe import StepOptions, SteppeError
from steppe.engine.step.parameter_groups import ParameterGroup

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 4
NO_DECAY = {"kind": ["norm", "bias"], "weight_decay": 0}


class RMSNormOfOurs(nn.Module):
    """As networks bring their own: known by its class alone."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.scale * F.normalize(x, dim=-1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Flatten(),
        RMSNormOfOurs(128),
        nn.Linear(128, 4),
    )


def sparsifier(groups, method=None, model=None, steps=4, **options):
    model = network() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), **{"lr": 0.1, "weight_decay": 0.5} | options)
    method = steppe.methods.gmp(sparsity=0.5) if method is None else method
    made = steppe.sparsify(
        model, optimizer, method, steps, options=StepOptions(optimizer_groups=groups)
    )
    return model, optimizer, made


def option(model, optimizer, made, key="weight_decay"):
    """What each parameter has, by its name in the model or as a part."""
    names = {id(p): n for n, p in model.named_parameters()}
    names |= {id(p): n for n, p in made._prunable.trained.items()}
    return {names[id(p)]: g[key] for g in optimizer.param_groups for p in g["params"]}


def test_kinds_do_not_depend_on_names():
    found = option(*sparsifier([NO_DECAY]))
    assert {n for n, decay in found.items() if decay == 0} == {
        "1.weight",
        "1.bias",
        "3.bias",
        "5.scale",
        "6.bias",
    }
    assert {n for n, decay in found.items() if decay == 0.5} == {"0.weight", "3.weight", "6.weight"}


def test_the_first_that_fits_wins_and_the_record_says_so():
    groups = [{"params": "1", "weight_decay": 0.1}, NO_DECAY, {"params": "3.*, 0", "lr": 0.01}]
    model, optimizer, made = sparsifier(groups)
    found = option(model, optimizer, made)
    assert (found["1.bias"], found["3.bias"], found["3.weight"]) == (0.1, 0, 0.5)
    assert option(model, optimizer, made, "lr")["3.weight"] == 0.01
    assert option(model, optimizer, made, "lr")["3.bias"] == 0.1
    assert "optimizer group 2 (norm, bias): weight_decay 0 for 3 tensors" in made.notes
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len([*model.parameters()])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_run_is_that_of_groups_made_by_hand(name):
    def train(model, step):
        for _ in range(3):
            step(lambda: F.cross_entropy(model(X), Y))
        return model.state_dict()

    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    hands, ours = network(), network()
    plain = [p for n, p in hands.named_parameters() if p.ndim > 1]
    flat = [p for n, p in hands.named_parameters() if p.ndim < 2]
    optimizer = kind(
        [{"params": plain}, {"params": flat, "weight_decay": 0, "lr": 0.02}],
        lr=0.1,
        weight_decay=0.5,
    )
    s = steppe.sparsify(hands, optimizer, steppe.methods.dense(), 3)
    expected = train(hands, s.step)
    optimizer = kind(ours.parameters(), lr=0.1, weight_decay=0.5)
    options = StepOptions(optimizer_groups=[NO_DECAY | {"lr": 0.02}])
    s = steppe.sparsify(ours, optimizer, steppe.methods.dense(), 3, options=options)
    for key, tensor in train(ours, s.step).items():
        assert torch.equal(tensor, expected[key]), key


def test_a_threshold_has_a_decay_of_its_own():
    method = steppe.methods.soft_threshold(sparsity=0.5)
    groups = [{"kind": "threshold", "weight_decay": 0.25}, {"params": "0.weight", "lr": 0.01}]
    model, optimizer, made = sparsifier(groups, method)
    found = option(model, optimizer, made)
    assert {n for n, decay in found.items() if decay == 0.25} == {
        "0.weight:s",
        "3.weight:s",
        "6.weight:s",
    }
    rates = option(model, optimizer, made, "lr")
    assert (rates["0.weight:v"], rates["0.weight:s"]) == (0.01, 0.1)  # v is the weight, s beside it
    for _ in range(4):
        made.step(lambda: F.cross_entropy(model(X), Y))
    done = made.finish()  # folded away, the optimiser has plain weights again
    weight = dict(model.named_parameters())["0.weight"]
    owners = [g for g in optimizer.param_groups if any(p is weight for p in g["params"])]
    assert [g["lr"] for g in owners] == [0.01]
    assert torch.equal(weight != 0, done.masks["0.weight"])
    optimizer.zero_grad()
    F.cross_entropy(model(X), Y).backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["pilot", "spred"])
def test_factors_go_by_the_name_of_their_weight_and_keep_the_couplings_decay(name):
    make = {
        "pilot": lambda: steppe.methods.pilot(sparsity=0.5, decay="constant", at=0.5),
        "spred": lambda: steppe.methods.spred(sparsity=0.5, at=0.5),
    }[name]
    groups = [{"params": "0.weight, 3.*", "weight_decay": 0.1, "lr": 0.01}]
    model, optimizer, made = sparsifier(groups, make())
    decays = option(model, optimizer, made)
    rates = option(model, optimizer, made, "lr")
    for weight in ("0.weight", "3.weight"):
        for part in ("m", "w"):
            assert (rates[f"{weight}:{part}"], decays[f"{weight}:{part}"]) == (0.01, 0.0)
    assert (rates["3.bias"], decays["3.bias"]) == (0.01, 0.1)
    assert (rates["6.weight:m"], decays["6.weight:m"]) == (0.1, 0.0)
    assert any("4 of them, which the coupling decays itself" in note for note in made.notes)
    with pytest.raises(SteppeError, match=r"decays the parts of the weights itself.*method\.alpha"):
        sparsifier([{"params": "*:m", "weight_decay": 0.1}], make())


@pytest.mark.parametrize("name", ["gmp", "pilot", "soft_threshold"])
def test_a_resumed_run_ends_with_the_same_bits(name):
    make = {
        "gmp": lambda: steppe.methods.gmp(sparsity=0.5),
        "pilot": lambda: steppe.methods.pilot(sparsity=0.5, decay="constant"),
        "soft_threshold": lambda: steppe.methods.soft_threshold(sparsity=0.5),
    }[name]
    groups = [{"params": "6", "lr": 0.02}, NO_DECAY]

    def steps(model, made, count):
        for _ in range(count):
            made.step(lambda: F.cross_entropy(model(X), Y))

    model, _, made = sparsifier(groups, make(), momentum=0.9)
    steps(model, made, 2)
    state, weights = copy.deepcopy((made.state_dict(), model.state_dict()))
    steps(model, made, 2)
    other, _, resumed = sparsifier(groups, make(), momentum=0.9)
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    steps(other, resumed, 2)
    made.finish()
    resumed.finish()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key
    _, _, ungrouped = sparsifier([], make(), momentum=0.9)
    with pytest.raises(SteppeError, match="same parameter groups"):
        ungrouped.load_state_dict(state)


def test_several_optimizers_are_divided_each():
    model = network()
    big = torch.optim.SGD([p for p in model.parameters() if p.ndim > 1], lr=0.1, weight_decay=0.5)
    small = torch.optim.AdamW([p for p in model.parameters() if p.ndim < 2], lr=0.01)
    options = StepOptions(optimizer_groups=[{"params": "6", "weight_decay": 0.2}, NO_DECAY])
    steppe.sparsify(model, [big, small], steppe.methods.gmp(sparsity=0.5), 2, options=options)
    assert [(len(g["params"]), g["weight_decay"]) for g in big.param_groups] == [(2, 0.5), (1, 0.2)]
    # nothing is left in its first group
    assert [(len(g["params"]), g["weight_decay"]) for g in small.param_groups] == [(1, 0.2), (4, 0)]


REFUSED = {
    "nothing": ({"params": "layer9.*", "lr": 0.1}, "must match a parameter; got 'layer9"),
    "near": ({"params": "3.wieght", "lr": 0.1}, r"look like 3\.weight.*the last is"),
    "no threshold": (
        {"kind": "threshold", "lr": 0.1},
        r"got threshold, of which.*Way out: kinds that there are: norm, bias",
    ),
    "unknown kind": ({"kind": "norms", "lr": 0.1}, "did you mean norm?"),
    "both": ({"kind": "norm", "params": "1", "lr": 0.1}, "has params or a kind, and options"),
    "no option": ({"kind": "norm"}, "got norm: no option"),
    "another option": ({"kind": "norm", "weight_dekay": 0.1}, "did you mean weight_decay"),
    "misspelt": ({"param": "1", "lr": 0.1}, "has params or a kind"),
    "value": ({"kind": "norm", "weight_decay": -1}, "Invalid weight_decay value: -1"),
    "text": ({"kind": "norm", "weight_decay": "much"}, "must take the options of each"),
    "no mapping": ("norm", "is a mapping; got 'norm'"),
    "no text": ({"params": 3, "lr": 0.1}, "are texts; got 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_one_line(case):
    spec, said = REFUSED[case]
    with pytest.raises(SteppeError, match=said) as refused:
        sparsifier([spec])
    assert "\n" not in str(refused.value)


def test_a_group_that_comes_too_late_is_refused():
    with pytest.raises(SteppeError, match=r"group 2 .*name the narrower group first"):
        sparsifier([NO_DECAY, {"params": "1", "lr": 0.1}])


def test_a_scheduler_that_was_made_before_is_refused():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    options = StepOptions(optimizer_groups=[NO_DECAY])
    with pytest.raises(SteppeError, match="make the scheduler after sparsify"):
        steppe.sparsify(model, optimizer, steppe.methods.gmp(sparsity=0.5), 4, options=options)


def test_a_scheduler_that_is_made_after_stretches_over_each_rate():
    _, optimizer, _ = sparsifier([{"kind": "norm", "lr": 0.4}])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()
    schedule.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.2]


def test_a_group_is_itself_when_it_is_made_again():
    made = ParameterGroup.make({"params": "a, b.*", "lr": 0.1})
    assert made == ParameterGroup.make(made)
    assert made.params == ("a", "b.*")
