from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from steppe.core.errors import SteppeError
from steppe.core.speed import Speed
from steppe.engine.progress import watched
from steppe.llm.generation_speed import ENOUGH, Setting, compare_speed, in_fresh_process, verdict

SETTING = Setting(prompt=8, tokens=4, batches=(1, 2), turns=ENOUGH, repeats=3)
FACTOR = {"bfloat16": 2.0, "float32": 1.0}


def halved(arm: str, _: int) -> float:
    """Sparse models take half as long as dense ones, bfloat16 twice as long as float32."""
    kind, dtype = arm.split()
    return FACTOR[dtype] * (1.0 if kind == "dense" else 0.5)


class Clockwork:
    """Measures nothing: the n-th process of an arm takes what it was told."""

    def __init__(self, takes: Callable[[str, int], float] = halved) -> None:
        self.takes = takes
        self.asked: list[dict[str, Any]] = []
        self.started: dict[str, int] = {}

    def __call__(self, wanted: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(wanted)
        kind = "dense" if wanted["sparse"] == "dense" else "sparse"
        arm = f"{kind} {wanted['dtype']}"
        number = self.started[arm] = self.started.get(arm, -1) + bool(wanted["batches"])
        factor = self.takes(arm, number)
        times = {
            "prompt_ms": [8 * factor] * wanted["repeats"],
            "token_ms": [factor] * wanted["repeats"],
            "text": [[1, 2 if factor == 2.0 else 3]],
        }
        return {
            "load_seconds": 1.0,
            "before_bytes": 5,
            "resident_bytes": int(1000 * factor),
            "written_bytes": int(1100 * factor),
            "peak_bytes": None if kind == "dense" else 7,
            "threads": 1,
            "formats": [{"bytes": 10, "format": "bits", "dtype": wanted["dtype"]}],
            "batches": {str(batch): times for batch in wanted["batches"]},
        }


def arms_of(asked: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(wanted["sparse"], wanted["dtype"]) for wanted in asked]


def test_the_fastest_of_each_kind_are_compared() -> None:
    result = compare_speed("pruned", "dense", setting=SETTING, worker=Clockwork())
    speed = result["speed"]["1"]["generation"]
    assert (speed["dense"], speed["sparse"]) == ("dense float32", "sparse float32")
    assert speed["ratio"] == 2.0
    assert speed["claimed"]
    arm = result["arms"]["sparse float32"]
    rates = {"tokens_per_second": 4000.0, "prompt_tokens_per_second": 4000.0, "each": [4000.0] * 8}
    assert arm["batches"]["2"] == rates
    assert arm["matrices_bytes"] == 10
    assert (arm["resident_bytes"], arm["written_bytes"], arm["peak_bytes"]) == (500, 550, 7)
    assert result["arms"]["dense float32"]["peak_bytes"] is None
    assert result["same_text"] == {"float32": True, "bfloat16": False}


def test_a_turn_gives_one_ratio_however_many_texts_its_processes_wrote() -> None:
    setting = Setting(prompt=8, tokens=4, batches=(1,), turns=3, repeats=50)
    worker = Clockwork()
    result = compare_speed(
        "pruned", "dense", format="bits", dtypes=("float32",), setting=setting, worker=worker
    )
    speed = result["speed"]["1"]["generation"]
    assert speed["ratios"] == [2.0, 2.0, 2.0]
    assert speed["turns"] == 3
    assert not speed["claimed"], "three turns bound nothing"
    assert verdict(speed) == "not surely faster: 3 turns bound nothing, --turns 8 do"


def test_enough_turns_are_the_fewest_that_can_be_claimed_from() -> None:
    assert Speed.of([(2.0, 1.0)] * ENOUGH, "a reason").claimed
    assert not Speed.of([(2.0, 1.0)] * (ENOUGH - 1), "a reason").claimed


def test_one_turn_that_was_slower_takes_the_claim_away() -> None:
    def once_slow(arm: str, number: int) -> float:
        return 3.0 if arm.startswith("sparse") and number == 4 else halved(arm, number)

    worker = Clockwork(once_slow)
    result = compare_speed(
        "pruned", "dense", format="bits", dtypes=("float32",), setting=SETTING, worker=worker
    )
    speed = result["speed"]["1"]["generation"]
    assert (speed["ratio"], speed["claimed"]) == (2.0, False)
    assert verdict(speed) == "not surely faster: 0.33x to 2.00x in 8 turns; --turns 16 narrow that"


@pytest.mark.parametrize(
    ("speed", "said"),
    [
        ({"low": 1.5, "high": 2.0, "claimed": True}, "surely faster: 1.50x to 2.00x in 9 turns"),
        ({"low": 0.5, "high": 0.9, "claimed": False}, "surely slower: 0.50x to 0.90x in 9 turns"),
    ],
)
def test_the_verdict_says_the_bounds(speed: dict[str, Any], said: str) -> None:
    assert verdict(speed | {"turns": 9}) == said


def test_models_take_turns_in_changing_order_and_choices_are_made_before() -> None:
    worker = Clockwork()
    setting = Setting(turns=3, batches=(1,))
    compare_speed("pruned", "dense", dtypes=("float32",), setting=setting, worker=worker)
    first, *timed = worker.asked
    assert (first["sparse"], first["batches"]) == ("auto", [])
    kinds = [(wanted["model"], wanted["sparse"]) for wanted in timed]
    dense, sparse = ("dense", "dense"), ("pruned", "auto")
    assert kinds == [dense, sparse, sparse, dense, dense, sparse]


def test_dtypes_that_are_plainly_slower_are_looked_at_once() -> None:
    worker = Clockwork()
    setting = Setting(turns=2, batches=(1,))
    result = compare_speed("pruned", "dense", format="bits", setting=setting, worker=worker)
    dense, sparse = ("dense", "float32"), ("bits", "float32")
    look = [dense, sparse, ("dense", "bfloat16"), ("bits", "bfloat16")]
    assert arms_of(worker.asked) == [*look, dense, sparse, sparse, dense]
    turns = {name: arm["turns"] for name, arm in result["arms"].items()}
    assert turns == {
        "dense float32": 2,
        "sparse float32": 2,
        "dense bfloat16": 0,
        "sparse bfloat16": 0,
    }


def test_a_dense_dtype_that_lost_the_first_look_by_a_hair_may_win_the_turns() -> None:
    def close(arm: str, number: int) -> float:
        times = {"dense float32": 1.0, "dense bfloat16": 1.1 if number == 0 else 0.9}
        return times.get(arm, 0.5 if arm == "sparse float32" else 0.6)

    worker = Clockwork(close)
    result = compare_speed("pruned", "dense", format="bits", setting=SETTING, worker=worker)
    speed = result["speed"]["1"]["generation"]
    assert (speed["dense"], speed["ratio"]) == ("dense bfloat16", pytest.approx(1.8))
    # both dense processes stand beside the sparse one
    assert arms_of(worker.asked)[4:7] == [
        ("dense", "float32"),
        ("bits", "float32"),
        ("dense", "bfloat16"),
    ]


def test_how_far_it_is_is_told() -> None:
    told: list[tuple[str, int, int, str]] = []
    with watched(lambda *what: told.append(what)):
        setting = Setting(turns=2, batches=(1,))
        compare_speed("pruned", "dense", setting=setting, worker=Clockwork())
    phases = list(dict.fromkeys(what for what, *_ in told))
    assert phases == [
        "choosing formats",
        "first look at each dtype",
        "timing",
    ]
    assert told[-1] == ("timing", 4, 4, "processes")


def test_what_is_wrong_with_a_model_is_said_as_the_process_said_it(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text("{")
    wanted = {"model": str(tmp_path), "sparse": "bits", "dtype": "float32", "threads": 1}
    with pytest.raises(SteppeError) as error:
        in_fresh_process(wanted | {"prompt": 2, "tokens": 1, "batches": [1], "repeats": 1})
    assert error.value.rule == "config.json must be JSON"
    assert "Traceback" not in str(error.value)


def test_a_process_that_breaks_is_one_line(language_model: Any) -> None:
    wanted = {"model": str(language_model), "sparse": "bits", "dtype": "float32", "threads": 1}
    with pytest.raises(SteppeError, match="must load and write") as error:
        in_fresh_process(json.loads(json.dumps(wanted | {"batches": [1], "prompt": "x"})))
    assert len(str(error.value).splitlines()) == 1
