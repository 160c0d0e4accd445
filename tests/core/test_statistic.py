"""Running means of what scores need to know."""

import pytest
import torch

from steppe.core.statistic import STATISTICS, Gradient, SquaredGradient


@pytest.mark.parametrize(("kind", "power"), [(Gradient, 1), (SquaredGradient, 2)])
def test_an_exponential_mean_from_the_first_value_on(kind, power):
    statistic, expected = kind(decay=0.9), None
    for _ in range(5):
        g = torch.randn(3, 2)
        statistic.observe({}, {"a": g})
        value = g**power
        expected = value if expected is None else 0.9 * expected + 0.1 * value
    torch.testing.assert_close(statistic.values["a"], expected)


@pytest.mark.parametrize("kind", [Gradient, SquaredGradient])
def test_the_gradient_is_not_kept_nor_changed(kind):
    statistic = kind()
    g = torch.ones(2)
    statistic.observe({}, {"a": g})
    g.fill_(9.0)
    assert torch.equal(statistic.values["a"], torch.ones(2))
    statistic.observe({}, {"a": g})
    assert torch.equal(g, torch.full((2,), 9.0))


def test_a_layer_that_joins_later():
    statistic = Gradient(decay=0.5)
    statistic.observe({}, {"a": torch.ones(1)})
    statistic.observe({}, {"a": 3 * torch.ones(1), "b": torch.ones(1)})
    assert {n: float(v) for n, v in statistic.values.items()} == {"a": 2.0, "b": 1.0}


@pytest.mark.parametrize("name", list(STATISTICS))
def test_names(name):
    assert STATISTICS[name].name == name
    assert STATISTICS[name]().values == {}
