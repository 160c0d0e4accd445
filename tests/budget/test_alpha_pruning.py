"""Hill's estimator, and sparsities in proportion to it."""

from __future__ import annotations

import pytest
import torch

from steppe import SteppeError, methods
from steppe.core.layer import Layer
from steppe.core.protocols import Budget

LAYERS = {
    f"h.{i}.{name}": Layer(f"h.{i}.{name}", (20, 30), block=f"h.{i}")
    for i in range(3)
    for name in "ab"
}
SIZES = {n: x.numel for n, x in LAYERS.items()}
BUDGET = Budget.make({"name": "alpha_pruning", "sparsity": 0.6, "spread": 0.25})


def with_spectrum(squares: torch.Tensor) -> torch.Tensor:
    n = len(squares)
    left, right = (torch.linalg.qr(torch.randn(n + k, n))[0] for k in (0, 7))
    return (left * squares.sqrt()) @ right.T


def test_the_estimator_by_its_formula() -> None:
    squares = torch.rand(20).add(0.1).sort().values.double()
    k = 10
    expected = 1 + k / float((squares[-k:] / squares[-k - 1]).log().sum())
    assert BUDGET.profile(with_spectrum(squares.float())) == pytest.approx(expected, rel=1e-4)


def test_it_finds_the_exponent_of_a_power_law() -> None:
    """Quantiles of the density (a - 1) x^-a above 1."""
    n = 400
    for exponent in (2.0, 3.5):
        place = (torch.arange(n) + 0.5) / n
        squares = place ** (-1 / (exponent - 1))
        found = BUDGET.profile(with_spectrum(squares.flip(0)))
        assert found == pytest.approx(exponent, rel=0.03)


def test_scale_and_transposition_do_not_matter() -> None:
    weight = torch.randn(20, 30)
    alpha = BUDGET.profile(weight)
    assert BUDGET.profile(7 * weight.T) == pytest.approx(alpha, rel=1e-4)


def test_sparsities_by_the_papers_formula() -> None:
    """Of blocks with the means 2, 3 and 2.5: 1 - s, 1 + s and 1, in proportion."""
    alphas = [1.0, 3.0, 3.0, 3.0, 2.0, 3.0]
    counts = BUDGET.counts(LAYERS, SIZES, 2160, dict(zip(LAYERS, alphas, strict=True)))
    assert sum(counts.values()) == 2160
    expected = [0.75, 0.75, 1.25, 1.25, 1.0, 1.0]
    assert [counts[n] / 600 / 0.6 for n in LAYERS] == pytest.approx(expected, abs=1e-3)
    even = BUDGET.counts(LAYERS, SIZES, 2160, dict.fromkeys(LAYERS, 2.0))
    assert set(even.values()) == {360}


def test_tied_weights_and_other_scores_in_a_loop_are_refused() -> None:
    with pytest.raises(SteppeError, match="spectrum of a layer's single weights"):
        methods.alps(sparsity=0.5, structure="block:2x2", budget="alpha_pruning")
    with pytest.raises(SteppeError, match="spectrum of what is ranked"):
        methods.gmp(sparsity=0.5, budget="alpha_pruning").replace(score="snip")
    with pytest.raises(SteppeError, match="spread"):
        Budget.make({"name": "alpha_pruning", "sparsity": 0.5, "spread": 1.0})


def test_it_needs_no_text() -> None:
    from steppe.engine.blockwise.compatibility import needs_windows

    magnitude = methods.magnitude(sparsity=0.5, objective="layer_reconstruction", budget="uniform")
    assert not needs_windows(magnitude.replace(budget=BUDGET))
    assert needs_windows(magnitude.replace(budget={"name": "owl", "sparsity": 0.5}))
