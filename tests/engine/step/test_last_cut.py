"""After the last projection: steps keep its zeros, and copies take them over."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn, update_bn

import steppe
from steppe import SteppeError

X, Y = torch.randn(32, 16), torch.arange(32) % 4
METHODS: dict[str, Callable[[], steppe.Method]] = {
    "safe": lambda: steppe.methods.safe(sparsity=0.5),
    "gmp": lambda: steppe.methods.gmp(sparsity=0.5),
    "iht": lambda: steppe.methods.iht(sparsity=0.5),
    "soft_mask": lambda: steppe.methods.gmp(sparsity=0.5).replace(coupling="soft_mask"),
    "lasso": lambda: steppe.methods.lasso(sparsity=0.5),
    "spred": lambda: steppe.methods.spred(sparsity=0.5),
    "soft_threshold": lambda: steppe.methods.soft_threshold(sparsity=0.5),
}
each_method = pytest.mark.parametrize("name", METHODS)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def started(name: str, model: nn.Module, steps: int = 8) -> steppe.Sparsifier:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return steppe.sparsify(model, optimizer, METHODS[name](), steps)


def loss(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(X), Y)


def trained(steps: int, model: nn.Module, sparsifier: steppe.Sparsifier) -> None:
    for _ in range(steps):
        sparsifier.step(lambda: loss(model))


def zeros(model: nn.Module) -> int:
    return sum(int((p == 0).sum()) for p in model.parameters() if p.ndim > 1)


@each_method
def test_a_step_after_the_end_keeps_its_zeros_and_says_so_once(name: str) -> None:
    model = network()
    sparsifier = started(name, model)
    trained(3, model, sparsifier)
    done = sparsifier.finish()
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(UserWarning, match="its zeros stay.*apply_to") as told:
        trained(5, model, sparsifier)
    assert len([w for w in told if "its zeros stay" in str(w.message)]) == 1
    assert not any((p[~done.masks[n]] != 0).any() for n, p in sparsifier.weights.items())
    assert all((p != before[n]).any() for n, p in sparsifier.weights.items()), "none is trained"
    assert sparsifier.finish() is done


def test_dense_has_nothing_to_hold() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    sparsifier = steppe.sparsify(model, optimizer, steppe.methods.dense(), 4)
    sparsifier.step(lambda: loss(model))
    sparsifier.finish()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsifier.step(lambda: loss(model))
    assert zeros(model) == 0


def test_weights_that_are_put_back_undo_the_end() -> None:
    model = network()
    sparsifier = started("safe", model)
    sparsifier.step(lambda: loss(model))
    straight, other = copy.deepcopy((model, sparsifier)), None
    dense = copy.deepcopy(model.state_dict())
    sparsifier.finish()
    model.load_state_dict(dense)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsifier.step(lambda: loss(model))
    other, its = straight
    its.step(lambda: loss(other))
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    # and a second end cuts the weights as they are now
    model.load_state_dict({n: t + 0.01 for n, t in dense.items()})
    assert sparsifier.finish().zeros == zeros(model) == 80


def test_folded_parts_cannot_be_put_back() -> None:
    model = network()
    sparsifier = started("spred", model)
    sparsifier.step(lambda: loss(model))
    sparsifier.finish()
    nn.init.ones_(model[0].weight)
    with pytest.raises(SteppeError, match=r"weights that were put back.*apply_to"):
        sparsifier.step(lambda: loss(model))


@each_method
def test_a_look_on_the_way_is_what_finish_would_leave_and_changes_nothing(name: str) -> None:
    model, other = network(), network()
    sparsifier, plain = started(name, model), started(name, other)
    random = torch.get_rng_state()
    for step in range(6):
        seen = copy.deepcopy(model)
        if step:
            looked = sparsifier.apply_to(seen)
            assert looked.zeros == zeros(seen) >= 80
            assert isinstance(seen[0].weight, nn.Parameter)
            assert not hasattr(seen[0], "parametrizations")
        torch.set_rng_state(random)
        sparsifier.step(lambda: loss(model))
        torch.set_rng_state(random)
        plain.step(lambda: loss(other))
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    seen = copy.deepcopy(model)
    sparsifier.apply_to(seen)
    sparsifier.finish()
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), seen.parameters(), strict=True)
    )


def test_a_look_before_the_first_step_begins_nothing() -> None:
    model = network()
    sparsifier = started("safe", model)
    assert sparsifier.apply_to(copy.deepcopy(model)).zeros == 80
    assert sparsifier.state == {}
    assert zeros(model) == 0
    with pytest.raises(SteppeError, match=r"the model itself.*deepcopy"):
        sparsifier.apply_to(model)


@each_method
@pytest.mark.parametrize("average", ["ema", "swa"])
@pytest.mark.parametrize("at_the_end", [True, False])
def test_an_average_gets_the_zeros_of_the_model(name: str, average: str, at_the_end: bool) -> None:
    model = network()
    sparsifier = started(name, model)
    averaged = (
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        if average == "ema"
        else AveragedModel(model, avg_fn=get_swa_avg_fn())
    )
    for _ in range(8):
        sparsifier.step(lambda: loss(model))
        averaged.update_parameters(model)
    if at_the_end:
        masks = sparsifier.finish().masks
        done = sparsifier.apply_to(averaged)
    else:
        done = sparsifier.apply_to(averaged)
        masks = sparsifier.finish().masks
    assert all(torch.equal(done.masks[n], m) for n, m in masks.items())
    weights = dict(averaged.module.named_parameters())
    for n, mask in masks.items():
        assert not weights[n][~mask].any()
        assert weights[n][mask].any()
        assert not torch.equal(weights[n], sparsifier.weights[n]), "the copy keeps its own weights"
    update_bn([X], averaged)
    assert averaged(X).isfinite().all()
    assert zeros(averaged) == done.zeros


def test_channels_and_wrappers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    x = torch.randn(2, 3, 8, 8)
    groups = steppe.channel_groups(model, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    method = steppe.methods.gmp(sparsity=0.5, structure="channel")
    sparsifier = steppe.sparsify(model, optimizer, method, 1, groups=groups)
    sparsifier.step(lambda: model(x).square().mean())
    holder = nn.ModuleDict({"student": AveragedModel(model)})
    done = sparsifier.apply_to(holder)
    assert done.units_zeroed == 4
    assert int((holder["student"].module[1].weight == 0).sum()) == 4


def test_what_is_no_copy_is_one_line() -> None:
    sparsifier = started("safe", network())
    with pytest.raises(SteppeError, match=r"Linear, which has no 0\.weight"):
        sparsifier.apply_to(nn.Linear(3, 2))
    with pytest.raises(SteppeError, match=r"got a OrderedDict.*apply_masks"):
        sparsifier.apply_to(network().state_dict())  # type: ignore[arg-type]
    wider = nn.Sequential(nn.Linear(16, 9), nn.Identity(), nn.Identity(), nn.Linear(9, 4))
    with pytest.raises(SteppeError, match=r"0\.weight of shape \(9, 16\)"):
        sparsifier.apply_to(wider)
