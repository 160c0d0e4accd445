from __future__ import annotations

from typing import Any

import pytest

from steppe.core.errors import SteppeError
from steppe.evaluation import make


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"turns": 0}, "--turns is 1 or more"),
        ({"batches": "1,x"}, "whole numbers above 0"),
        ({"device": "cuda"}, "multiplied on the CPU"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(SteppeError, match=said):
        make("speed", "nowhere", flags, []).measure()


def test_the_line_says_what_is_not_sure() -> None:
    speed = {"dense": "dense a", "sparse": "sparse a", "ratio": 1.02, "claimed": False}
    arm = {"resident_bytes": 2e6, "batches": {"1": {"tokens_per_second": 5.0}}}
    result = {
        "speed": {"1": {"generation": speed}},
        "arms": {"dense a": arm, "sparse a": arm},
        "formats": [{"format": "bits"}, {"format": "dense"}],
    }
    line = make("speed", "run", {}, []).line(result, {})
    assert line == (
        "batch 1: 5 tokens/s, dense 5 (1.02x, not surely faster); memory 2 MB, dense 2; "
        "1 of 2 matrices packed"
    )
