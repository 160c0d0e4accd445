"""OWL: densities of whole decoder blocks follow their outliers."""

from __future__ import annotations

import pytest
import torch

from steppe import SteppeError, methods
from steppe.core.layer import Layer
from steppe.core.protocols import Budget

# two layers to a block, not equally large
LAYERS = {
    f"blocks.{i}.{name}": Layer(f"blocks.{i}.{name}", shape, block=f"blocks.{i}")
    for i in range(4)
    for name, shape in (("a", (20, 30)), ("b", (50, 20)))
}
SIZES = {n: x.numel for n, x in LAYERS.items()}
TOTAL = sum(SIZES.values())


def counts(shares: list[float], sparsity: float = 0.6, **options: float) -> dict[str, int]:
    owl = Budget.make({"name": "owl", "sparsity": sparsity} | options)
    profile = {n: shares[int(n.split(".")[1])] for n in LAYERS}
    return owl.counts(LAYERS, SIZES, round(sparsity * TOTAL), profile)


def sparsities(pruned: dict[str, int]) -> list[float]:
    """One per block; its layers share it."""
    each = [
        [pruned[n] / SIZES[n] for n in LAYERS if n.startswith(f"blocks.{i}.")] for i in range(4)
    ]
    assert all(max(x) - min(x) < 2 / min(SIZES.values()) for x in each)
    return [x[0] for x in each]


def test_by_the_papers_formula() -> None:
    shares = [0.02, 0.05, 0.03, 0.01]
    pruned = counts(shares)
    assert sum(pruned.values()) == round(0.6 * TOTAL)
    # D scaled to [0, 2 lambda], density = (1 - S) + D - mean D
    scaled = [(s - 0.01) / 0.04 * 2 * 0.08 for s in shares]
    density = [0.4 + d - sum(scaled) / 4 for d in scaled]
    assert sparsities(pruned) == pytest.approx([1 - d for d in density], abs=2e-3)
    assert max(sparsities(pruned)) - min(sparsities(pruned)) == pytest.approx(0.16, abs=2e-3)


@pytest.mark.parametrize("sparsity", [0.0, 0.013, 0.5, 0.77, 0.999])
@pytest.mark.parametrize("spread", [0.0, 0.08, 0.3, 0.49])
def test_the_total_is_exact_also_where_a_block_is_full(sparsity: float, spread: float) -> None:
    pruned = counts([0.0, 0.9, 0.1, 0.3], sparsity, spread=spread)
    assert sum(pruned.values()) == round(sparsity * TOTAL)
    assert all(0 <= pruned[n] <= SIZES[n] for n in SIZES)


def test_blocks_alike_are_treated_alike() -> None:
    assert sparsities(counts([0.03] * 4)) == pytest.approx([0.6] * 4, abs=2e-3)
    assert sparsities(counts([0.01, 0.02, 0.02, 0.03], spread=0.0)) == pytest.approx(
        [0.6] * 4, abs=2e-3
    )


def test_a_profile_counts_outliers() -> None:
    owl = Budget.make({"name": "owl", "sparsity": 0.5})
    units = torch.ones(10, 10)
    assert owl.profile(units) == 0.0
    units[0, 0], units[3, 3] = 50.0, -50.0
    assert owl.profile(units) == 0.02
    assert owl.profile(7.0 * units) == 0.02, "only sizes beside the mean matter"
    wide = Budget.make({"name": "owl", "sparsity": 0.5, "threshold": 30.0})
    assert wide.profile(units) == 0.0


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"spread": 0.5}, {"spread": -0.1}])
def test_impossible_options(options: dict[str, float]) -> None:
    with pytest.raises(SteppeError, match="owl needs a threshold"):
        Budget.make({"name": "owl", "sparsity": 0.5} | options)


def test_whole_outputs_are_refused() -> None:
    with pytest.raises(SteppeError, match="owl ranks weights"):
        methods.gmp(sparsity=0.5, budget="owl", structure="channel")
