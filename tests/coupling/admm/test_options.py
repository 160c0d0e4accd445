"""Options of ADMM that mean nothing, or nothing beside others, are refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from looped import looped
from steppe import SteppeError, methods
from steppe.core.protocols import Coupling
from steppe.coupling.admm import Admm


@looped(
    wrong=[
        ({"penalty": "auto", "held": True}, "belong to a penalty that is a number"),
        ({"penalty": "auto", "start": 0.1}, "belong to a penalty that is a number"),
        ({"penalty": 0.1, "start": -1.0}, "start is a finite number"),
        ({"penalty": 0.1, "start": 0.1, "curve": "constant"}, "not constant"),
        ({"penalty": 0.1, "curve": "exponential"}, "starts and ends above 0"),
        ({"penalty": 0.0, "start": 0.1, "curve": "exponential"}, "starts and ends above 0"),
        ({"curve": "exponential"}, "exponential"),
        ({"penalty": 0.1, "curve": "square"}, "exponential"),
        ({"state_dtype": "float16"}, "state_dtype None"),
        ({"seed": 2**50}, "seed"),
    ]
)
def test_what_is_refused(wrong: tuple[dict[str, Any], str]) -> None:
    options, said = wrong
    with pytest.raises(SteppeError, match=said) as caught:
        Admm(**options)
    assert "\n" not in str(caught.value)


@looped(
    way_out=[
        {"penalty": 0.01, "held": True},
        {"penalty": 0.1, "curve": "cosine", "start": 0.01},
        {"penalty": 0.1, "curve": "exponential", "start": 1e-4},
        {"state_dtype": "bfloat16"},
        {"state_dtype": None},
    ]
)
def test_the_ways_out_work(way_out: dict[str, Any]) -> None:
    part = Coupling.make({"name": "admm", **way_out})
    assert Coupling.make(part.to_dict()) == part


def test_as_options_of_the_method() -> None:
    with pytest.raises(SteppeError, match="start"):
        methods.elsa(sparsity=0.9, penalty_schedule="exponential")
    part = methods.elsa(sparsity=0.9, penalty_schedule="exponential", penalty_start=1e-4).coupling
    assert isinstance(part, Admm)
    assert (part.start, part.penalty, part.interval) == (1e-4, 0.01, 32)
