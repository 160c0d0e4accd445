"""A claim needs a reason and a lower bound above 1.05; noise makes none."""

from __future__ import annotations

import json
import random
from statistics import median

import pytest

from steppe.core.speed import DENSE_KERNELS, LEAST, Speed

REASON = "8 channels are removed"


def loaded(ratio: float, seed: int, turns: int = 25) -> list[tuple[float, float]]:
    """Turns on a machine that is sixteen times slower in four of ten measurements."""
    draw = random.Random(seed)

    def noise() -> float:
        return draw.uniform(1.0, 16.0) if draw.random() < 0.4 else draw.uniform(1.0, 1.1)

    return [(ratio * noise(), noise()) for _ in range(turns)]


def test_median_and_bounds_are_those_of_the_paired_ratios() -> None:
    ratios = [1.0 + 0.1 * i for i in range(25)]
    pairs = [(3.0 * r, 3.0) for r in ratios]
    random.Random(0).shuffle(pairs)
    speed = Speed.of(pairs, REASON)
    # P(heads of 25 <= 5) = 0.2 %, P(<= 6) = 0.7 %: the sixth from either end
    assert (speed.ratio, speed.low, speed.high) == pytest.approx((2.2, 1.5, 2.9))
    assert (speed.turns, speed.sparse_ms) == (25, 3.0)
    assert speed.dense_ms == pytest.approx(3.0 * median(ratios))


def test_the_bounds_hold_on_a_machine_loaded_sixteenfold() -> None:
    equal = [Speed.of(loaded(1.0, seed), REASON) for seed in range(400)]
    assert max(speed.ratio for speed in equal) > 1.3, "the noise alone looks like a gain"
    assert sum(speed.claimed for speed in equal) <= 4
    assert sum(speed.low > 1.0 for speed in equal) <= 6
    double = [Speed.of(loaded(2.0, seed), REASON) for seed in range(100)]
    assert sum(speed.low <= 2.0 <= speed.high for speed in double) >= 95
    assert sum(s.claimed for s in double) > 20, "a gain of two is often seen all the same"


def test_no_claim_without_a_reason_or_with_too_few_turns() -> None:
    assert Speed.of([(16.6, 1.0)] * 25, REASON).claimed
    zeros = Speed.of([(16.6, 1.0)] * 25)
    assert not zeros.claimed
    assert DENSE_KERNELS in zeros.sentence("one image")
    assert "16" not in zeros.sentence("one image")
    few = Speed.of([(2.0, 1.0)] * 7, REASON)
    assert not few.claimed
    assert "too few turns, 7" in few.sentence("one image")
    assert Speed.of([(2.0, 1.0)] * 8, REASON).claimed
    assert not Speed.of([(LEAST, 1.0)] * 25, REASON).claimed


def test_the_sentence_says_what_is_known() -> None:
    claim = Speed.of([(2.0, 1.0)] * 25, REASON).sentence("one image")
    assert claim == (
        f"one image is 2.00x as fast as dense (2.00 to 2.00 in 25 paired turns), as {REASON}"
    )
    unsure = Speed.of([(1.0, 1.0)] * 25, REASON).sentence("one image")
    assert "not surely faster" in unsure


def test_a_record_is_read_as_it_was_written() -> None:
    speed = Speed.of(loaded(1.5, 0), REASON)
    record = json.loads(json.dumps(speed.record()))
    assert Speed.read(record) == speed
    assert record["claimed"] == speed.claimed
    for none in (None, {}, {"ratio": 2.0}, record | {"low": None}, record | {"low": float("nan")}):
        assert Speed.read(none) is None
