"""What a recipe may hold; anything else is one line that names the place."""

from __future__ import annotations

from typing import Any

import pytest

from steppe.core.errors import SteppeError
from steppe.experiment.recipe import parse


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({7: 1}, "7"),
        (
            {"data": {"name": "digits", "label_noise": {"rate": 0.1, "kinds": 1}}},
            "label_noise.kind",
        ),
        ({"data": {"name": "digits", 7: 1}}, "data"),
        ({"train": {"lr": float("nan")}}, "train.lr"),
        ({"train": {"lr": float("inf")}}, "train.lr"),
        ({"seed": 10**30}, "seed"),
    ],
)
def test_odd_keys_and_numbers_are_one_line(change: dict[Any, Any], said: str) -> None:
    with pytest.raises(SteppeError, match=said) as refused:
        parse({"method": {"name": "gmp", "sparsity": 0.5}} | change)
    assert "\n" not in str(refused.value)
