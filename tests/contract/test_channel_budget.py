"""What every budget of coupled channels fulfils: the cost is met, or it says why not."""

import pytest
import torch

import grouped
import steppe
from looped import looped
from steppe import Method, StepOptions, SteppeError
from steppe.core.cost import Units
from steppe.core.protocols import Budget, ChannelBudget, SearchBudget, Structure, UnitBudget

CHANNELS = [n for n in Budget.registry if issubclass(Budget.registry[n], ChannelBudget)]
CHANNELS_ONLY = [n for n in CHANNELS if not issubclass(Budget.registry[n], UnitBudget)]
UNITS_ONLY = [n for n in Budget.registry if n not in CHANNELS]
NARROW = [s for s in Structure.registry if not Structure.registry[s].whole_outputs]
SEARCHES = [n for n in CHANNELS if issubclass(Budget.registry[n], SearchBudget)]
FORMS = {"nm": "2:4", "block": "block:2x2"}


def make(name, sparsity=0.5):
    return Budget.make({"name": name, "sparsity": sparsity})


def saliencies(seed=0):
    """Two humps in each group, for budgets that look for a valley."""
    generator = torch.Generator().manual_seed(seed)
    units = {}
    for group in grouped.groups():
        values = 0.02 * torch.rand(group.units, generator=generator)
        values[: group.units // 2] += 0.9
        units[group.name] = values[torch.randperm(group.units, generator=generator)]
    return units


def good(kept):
    """A candidate is the better the wider its trunk."""
    return float(kept["stem.weight"].sum())


def chosen(budget, units, groups, allowed):
    cost = Units(groups)
    if isinstance(budget, SearchBudget):
        return budget.search(units, groups, cost, allowed, good)
    return budget.within_cost(units, groups, cost, allowed)


@pytest.mark.parametrize("name", CHANNELS)
@looped(multiple=[1, 2])
@looped(share=[0.9, 0.7, 0.5])
def test_the_cost_is_met_and_widths_are_multiples(name, multiple, share):
    budget, groups, units = make(name), grouped.groups(multiple), saliencies()
    before = {n: u.clone() for n, u in units.items()}
    allowed = share * Units(groups).total({})
    kept = chosen(budget, units, groups, allowed)
    assert kept.keys() == units.keys()
    assert all(k.dtype == torch.bool and k.shape == units[n].shape for n, k in kept.items())
    widths = {n: int(k.sum()) for n, k in kept.items()}
    if budget.meets:
        assert Units(groups).total(widths) <= allowed
    for group in groups:
        assert widths[group.name] >= group.least
        assert widths[group.name] % group.multiple == 0
    assert all(torch.equal(units[n], before[n]) for n in units), "the saliencies were changed"


@pytest.mark.parametrize("name", CHANNELS)
def test_the_more_salient_stay_within_a_group(name):
    units = saliencies()
    for group, kept in chosen(make(name), units, grouped.groups(), 7.0).items():
        if kept.any() and not kept.all():
            assert units[group][kept].min() >= units[group][~kept].max()


@pytest.mark.parametrize("name", CHANNELS)
def test_signs_and_calls_before_do_not_matter(name):
    budget, units = make(name), saliencies()
    first = chosen(budget, units, grouped.groups(), 7.0)
    chosen(budget, saliencies(1), grouped.groups(), 7.0)
    again = chosen(budget, {n: -u for n, u in units.items()}, grouped.groups(), 7.0)
    assert all(torch.equal(first[n], again[n]) for n in first)


def method(name, structure="channel"):
    return Method(structure=structure, score="l2", budget=make(name))


def sparsified(made, **given):
    net = grouped.Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    return net, steppe.sparsify(net, optimizer, made, total_steps=2, **given)


@pytest.mark.parametrize("name", [n for n in CHANNELS if Budget.registry[n].meets])
def test_a_training_ends_with_what_is_allowed_and_nothing_returns(name):
    torch.manual_seed(0)
    options = StepOptions(evaluate_candidate=good)
    made = method(name).replace(schedule="linear")
    net, sparsifier = sparsified(made, groups=grouped.groups(), options=options)
    masks = []
    for _ in range(2):
        sparsifier.step(lambda: grouped.loss(net))
        masks.append({n: m.clone() for n, m in sparsifier.state["mask"].items()})
    done = sparsifier.finish()
    assert done.units_zeroed == 7
    assert done.reached == pytest.approx(0.5)
    assert not any((masks[1][n] & ~masks[0][n]).any() for n in masks[0])


@pytest.mark.parametrize("name", CHANNELS_ONLY)
def test_without_groups_it_refuses_and_says_the_way_out(name):
    with pytest.raises(SteppeError, match=rf"{name}.*coupled channels.*channel_groups") as error:
        sparsified(method(name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", CHANNELS_ONLY)
@looped(structure=NARROW)
def test_other_structures_are_refused_when_the_method_is_built(name, structure):
    sparsity = {"name": name, "sparsity": 0.5}
    with pytest.raises(SteppeError, match=rf"{name}.*coupled channels.*--target") as error:
        Method(structure=FORMS.get(structure, structure), budget=sparsity)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", UNITS_ONLY)
def test_a_budget_of_single_units_refuses_groups(name):
    try:
        made = method(name)
    except SteppeError:  # it refuses whole channels altogether
        return
    with pytest.raises(SteppeError, match=rf"{name}.*single layers.*groups of coupled channels"):
        sparsified(made, groups=grouped.groups())


@pytest.mark.parametrize("name", SEARCHES)
def test_what_tries_candidates_needs_an_evaluation(name):
    with pytest.raises(SteppeError, match="evaluate_candidate"):
        sparsified(method(name), groups=grouped.groups())
