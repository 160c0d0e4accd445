"""What every score fulfils."""

import pytest
import torch

from looped import looped
from steppe import Method, SteppeError
from steppe.core.calibration_statistics import CALIBRATION
from steppe.core.protocols import AnyCoupling, LayerSolver, Score
from steppe.core.statistic import STATISTICS

SCORES = list(Score.registry)
SHAPES = [(6, 4), (4, 2, 3), (4, 3, 2, 2), (2, 2, 1, 2, 3)]


def drawn(need, shape, generator=None):
    """A value of a statistic, or of what a coupling provides, for a weight of that shape."""
    known = need in STATISTICS
    return torch.rand(STATISTICS[need].shape(shape) if known else shape, generator=generator)


def saliency(name, weight, key="layer.weight"):
    score = Score.make(name)
    generator = torch.Generator().manual_seed(1)
    stats = {n: drawn(n, tuple(weight.shape), generator).to(weight) for n in score.needs}
    kept = {n: s.clone() for n, s in stats.items()}
    result = score.score(weight, stats, key)
    assert all(torch.equal(stats[n], kept[n]) for n in stats), "the statistics were changed"
    return result


@pytest.mark.parametrize("name", SCORES)
@looped(shape=SHAPES)
def test_shape_and_input_kept(name, shape):
    weight = torch.randn(shape)
    before = weight.clone()
    result = saliency(name, weight)
    assert result.shape == weight.shape
    assert result.isfinite().all()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("name", SCORES)
@looped(dtype=[torch.float64, torch.float16, torch.bfloat16])
def test_any_float_in_a_float_out(name, dtype):
    result = saliency(name, torch.randn(5, 3).to(dtype))
    assert result.is_floating_point()
    assert result.isfinite().all()
    looks_at_weights = not torch.equal(result, saliency(name, torch.randn(5, 3).to(dtype)))
    if looks_at_weights:
        assert result.dtype == dtype


@pytest.mark.parametrize("name", SCORES)
def test_the_same_twice(name):
    weight = torch.randn(5, 3)
    state = torch.get_rng_state()
    first = saliency(name, weight)
    assert torch.equal(first, saliency(name, weight))
    assert torch.equal(state, torch.get_rng_state()), "torch's generator was touched"


@pytest.mark.parametrize("name", SCORES)
def test_needs_are_statistics_or_a_couplings_own(name):
    kinds = [AnyCoupling.registry[n] for n in AnyCoupling.registry]
    provided = {need for kind in kinds if issubclass(kind, LayerSolver) for need in kind.provides}
    for need in set(Score.make(name).needs) - provided:
        known = CALIBRATION[need] if Score.make(name).calibrated else STATISTICS[need]
        assert known.name == need


@pytest.mark.parametrize("name", [n for n in SCORES if Score.make(n).calibrated])
def test_what_calibration_alone_knows_ranks_in_no_loop_of_steps(name):
    budget = {"name": "uniform", "sparsity": 0.5}
    with pytest.raises(SteppeError, match=f"score {name} is known of calibrated layers only"):
        Method(score=name, budget=budget)
    Method(score=name, budget=budget, objective="layer_reconstruction")


@pytest.mark.parametrize("name", SCORES)
def test_groups_become_one_number(name):
    score = Score.make(name)
    groups = torch.randn(3, 5, 4)
    before = groups.clone()
    assert score.reduce(groups).shape == (3, 5)
    assert torch.equal(groups, before)
    # a unit of one weight ranks as the weight itself
    single = score.reduce(groups[..., :1])
    assert torch.equal(single.abs(), groups[..., 0].abs())


@pytest.mark.parametrize("name", SCORES)
def test_members_of_a_group_have_no_order(name):
    groups = torch.randn(3, 5, 4, dtype=torch.float64)
    score = Score.make(name)
    shuffled = groups[..., torch.randperm(4)]
    torch.testing.assert_close(score.reduce(groups), score.reduce(shuffled), atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("name", SCORES)
def test_scale_of_weights_and_statistics_changes_no_rank(name):
    score = Score.make(name)
    weight = torch.randn(6, 8)
    stats = {n: drawn(n, (6, 8)) for n in score.needs}

    def order(weight, stats):
        # powers of two (and of four, below a root) scale floats without rounding
        return score.score(weight, stats, "w").abs().flatten().argsort(stable=True)

    scaled = {n: s * 4 for n, s in stats.items()}
    assert torch.equal(order(weight, stats), order(weight * 2, scaled))
    assert torch.equal(order(weight, stats), order(-weight, stats))
