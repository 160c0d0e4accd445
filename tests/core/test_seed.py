"""Seeds are small enough for what is made of them."""

from __future__ import annotations

import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.core.seed import MOST, checked_seed


def test_seeds_of_which_random_numbers_can_be_drawn() -> None:
    for seed in (0, -1, 7, MOST, -MOST):
        assert checked_seed(seed) == seed
        torch.Generator().manual_seed(seed * 1_000_003 + 999)
    for seed in (MOST + 1, -MOST - 1, 10**20):
        with pytest.raises(SteppeError, match="at most 40 bits"):
            checked_seed(seed)
