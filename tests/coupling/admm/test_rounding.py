"""Stochastic rounding to bfloat16: by chance, but the same chance in every run."""

from __future__ import annotations

import pytest
import torch

from steppe.coupling.admm.rounding import Rounding

COARSE = Rounding(torch.bfloat16, 0)


def test_the_weights_own_type_is_left_as_it_is() -> None:
    value = torch.randn(5)
    assert Rounding(None, 0)(value, "w", 3) is value
    half = value.bfloat16()
    assert COARSE(half, "w", 3) is half


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_error_is_below_one_unit_in_the_last_place(scale: float) -> None:
    value = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * scale
    kept = COARSE(value, "w", 0)
    assert kept.dtype == torch.bfloat16
    assert ((kept.float() - value).abs() < 2.0**-7 * value.abs()).all()
    assert (kept.float() - value != 0).any()


def test_what_bfloat16_holds_stays() -> None:
    value = torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    value[:3] = torch.tensor([0.0, float("inf"), float("-inf")])
    assert torch.equal(COARSE(value, "w", 0).float(), value)


def test_the_mean_is_the_value() -> None:
    value = torch.full((40_000,), 1.0 + 2.0**-7 * 0.3)  # 0.3 of the way to the next number
    up = (COARSE(value, "w", 0) > 1.0).float().mean()
    assert abs(float(up) - 0.3) < 5 * (0.3 * 0.7 / 40_000) ** 0.5


def test_the_chance_is_a_function_of_seed_name_and_step() -> None:
    value = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    first = COARSE(value, "w", 4)
    assert torch.equal(first, COARSE(value, "w", 4))
    assert torch.equal(state, torch.get_rng_state())
    others = [Rounding(torch.bfloat16, 1)(value, "w", 4), COARSE(value, "v", 4)]
    others.append(COARSE(value, "w", 5))
    assert not any(torch.equal(first, other) for other in others)
