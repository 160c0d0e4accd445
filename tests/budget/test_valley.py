"""The valley between two humps of scores says what goes."""

import numpy as np
import pytest
import torch

from steppe import SteppeError
from steppe.budget.valley import Valley, first_rise, threshold
from steppe.core.cost import Units
from steppe.core.group import Group, Slice


def group(name, units, multiple=1):
    rows = Slice(name, 0, torch.arange(units).view(units, 1), "output")
    return Group(name, (rows,), multiple=multiple)


def humps(low, high, at=0.05):
    """So many scores around ``at`` and around 0.8, mixed."""
    generator = torch.Generator().manual_seed(0)
    values = torch.cat([at + 0.01 * torch.randn(low, generator=generator),
                        0.8 + 0.05 * torch.randn(high, generator=generator)])  # fmt: skip
    return values[torch.randperm(low + high, generator=generator)]


def cut(units, groups, sparsity=0.5):
    cost = Units(groups)
    allowed = (1 - sparsity) * cost.total({})
    return Valley(sparsity=sparsity, bins=20).within_cost(units, groups, cost, allowed)


def test_the_low_hump_goes_whatever_the_sparsity():
    groups = [group("a", 300), group("b", 200), group("c", 60)]
    units = {"a": humps(200, 100), "b": humps(50, 150), "c": humps(0, 60)}
    for sparsity in (0.1, 0.5, 0.9):
        kept = cut(units, groups, sparsity)
        assert {n: int(k.sum()) for n, k in kept.items()} == {"a": 100, "b": 150, "c": 60}
        assert all(torch.equal(kept[n], units[n] > 0.4) for n in kept)


def test_the_order_and_the_sign_do_not_matter():
    units = humps(30, 30)
    order = torch.randperm(60)
    plain = cut({"a": units}, [group("a", 60)])["a"]
    mixed = cut({"a": -units[order]}, [group("a", 60)])["a"]
    assert torch.equal(plain[order], mixed)


def test_scores_that_are_exactly_zero():
    """After polarisation most of what goes is zero."""
    values = torch.cat([torch.zeros(50), torch.full((14,), 0.9)])
    assert int(cut({"a": values}, [group("a", 64)])["a"].sum()) == 14
    assert threshold(values, 100, 0.2) == pytest.approx(0.009)


def test_a_narrow_group_has_fewer_bins():
    """As polarised scales of 8 channels look: in 100 bins each gap would be a valley."""
    scales = torch.tensor([0.41, 0.15, 0.40, 0.46, 0.44, 0.47, 0.14, 0.09])
    cost = Units([group("a", 8)])
    kept = Valley(sparsity=0.5).within_cost({"a": scales}, cost.groups, cost, 4.0)["a"]
    assert torch.equal(kept, scales > 0.3)


def test_what_is_spread_away_from_zero_is_whole():
    """As the scales of a residual trunk, which add up over its blocks."""
    trunk = torch.tensor([1.24, 0.60, 1.43, 1.37, 1.01, 1.19, 0.86, 1.31])
    groups = [group("trunk", 8), group("a", 60)]
    kept = cut({"trunk": trunk, "a": humps(20, 40)}, groups)
    assert {n: int(k.sum()) for n, k in kept.items()} == {"trunk": 8, "a": 40}


def test_widths_stay_multiples():
    kept = cut({"a": humps(31, 29)}, [group("a", 60, multiple=8)])["a"]
    assert int(kept.sum()) == 32


def test_nothing_goes_where_nothing_is_asked():
    assert cut({"a": torch.linspace(0, 1, 50)}, [group("a", 50)], sparsity=0.0)["a"].all()


def test_no_valley_is_an_error_that_says_so():
    with pytest.raises(SteppeError, match=r"two humps.*in mess.*Way out"):
        cut({"mess": torch.linspace(0, 1, 1000)}, [group("mess", 1000)])
    with pytest.raises(SteppeError, match="no score near zero in any group"):
        cut({"a": humps(0, 60)}, [group("a", 60)])
    for wrong in ({"bins": 2}, {"limit": 0.0}, {"limit": 2.0}):
        with pytest.raises(SteppeError, match="valley needs 3 bins"):
            Valley(sparsity=0.5, **wrong)


def as_the_authors_search(scales):
    """A plain transcription of what their code does, on numpy's histogram."""
    counts, edges = np.histogram(scales.numpy(), bins=100, range=(0, 1))
    steps = np.diff(counts)
    for i in range(len(steps) - 1):
        if steps[i] <= 0 <= steps[i + 1]:
            return float(edges[i + 1])
    return None


@pytest.mark.parametrize("at", [0.0, 0.02, 0.3])
def test_the_authors_search_is_over_zero_to_one(at):
    for scale in (0.5, 1.0, 1.5):
        scales = humps(200, 100, at).clamp(min=0.0) * scale
        assert first_rise(scales, 100, 1.0) == pytest.approx(as_the_authors_search(scales))


def test_both_searches_part_humps_that_are_far_apart():
    low, high = torch.linspace(0, 1, 300), torch.linspace(0.4, 0.5, 100)
    units = {"a": torch.cat([0.019 * low.square(), high])}
    cost = Units([group("a", 400)])
    for search in ("humps", "authors"):
        budget = Valley(sparsity=0.5, search=search)
        kept = budget.within_cost(units, cost.groups, cost, 200.0)["a"]
        assert torch.equal(kept, units["a"] > 0.3), search


def test_they_differ_where_the_largest_scale_is_small():
    """In [0, 1] the authors see one hump in the first bin, in [0, largest] there are two."""
    scales = torch.cat([torch.linspace(0, 0.001, 50), torch.linspace(0.008, 0.009, 50)])
    assert first_rise(scales, 100, 0.2) == pytest.approx(0.01)  # all of it would go
    assert 0.001 <= threshold(scales, 10, 0.5) <= 0.008


def test_an_unknown_search_is_refused():
    with pytest.raises(SteppeError, match=r"unknown search .*did you mean authors"):
        Valley(sparsity=0.5, search="author")
