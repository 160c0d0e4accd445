"""Four things called Taylor, beside loops that say what each is."""

import pytest
import torch
from torch import nn

from steppe import Method, SteppeError
from steppe.core.layer import Layer
from steppe.core.statistic import STATISTICS
from steppe.score.taylor import NEEDS, Taylor

BUDGET = {"name": "pooled", "sparsity": 0.5}


def method(variant, structure="channel"):
    return Method(score={"name": "taylor", "variant": variant}, structure=structure, budget=BUDGET)


@pytest.mark.parametrize("variant", NEEDS)
def test_beside_a_loop_over_channels(grouped, variant):
    """One batch: the mean is the value itself."""
    net = grouped.Net()
    select = grouped.selector(net, method(variant))
    weights = grouped.observe(net, select, [slice(0, 8)])
    grads = {n: p.grad for n, p in net.named_parameters()}
    score = select.method.score
    for group in grouped.groups():
        saliencies = {
            s.name: select._score(s.name, weights[s.name]) for s in group.slices if score.reads(s)
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
            }[variant]
            assert abs(float(made[unit])) == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("variant", NEEDS)
def test_the_mean_is_taken_of_what_the_variant_says(grouped, variant):
    """Two batches that pull to opposite sides cancel in the mean, and only there."""
    select = grouped.selector(grouped.Net(), method(variant))
    (statistic,) = select.statistics.values()
    statistic.decay = 0.5
    name, weight = "stem.weight", torch.ones(6, 3, 3, 3)
    for sign in (1.0, -1.0):
        statistic.observe({name: weight}, {name: sign * weight})
    units = select.method.score.reduce(select._score(name, weight).flatten(1))
    expected = {"mean": 0.0, "squared": 27.0**2, "absolute": 27.0, "elementwise": 27.0}[variant]
    torch.testing.assert_close(units, torch.full((6,), expected))


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
    statistic = STATISTICS["output_square"]()
    statistic.prepare({"w": (Layer("w", (2, 2)), nn.Linear(2, 2))})
    small = torch.full((2, 2), 1e-4, dtype=torch.float16)
    statistic.observe({"w": small}, {"w": small})
    assert (statistic.values["w"] > 0).all()


def test_wrong_ones_are_refused():
    with pytest.raises(SteppeError, match="variant"):
        Taylor(variant="second")
    for variant in ("squared", "absolute"):
        with pytest.raises(SteppeError, match="whole channels"):
            method(variant, "unstructured")
    assert method("elementwise", "unstructured").score.needs == ("absolute_product",)
