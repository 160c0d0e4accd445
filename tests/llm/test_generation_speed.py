from __future__ import annotations

from typing import Any

import pytest

from steppe.core.errors import SteppeError
from steppe.llm.generation_speed import Setting, compare_speed, in_fresh_process

SETTING = Setting(prompt=8, tokens=4, batches=(1, 2), turns=3, repeats=3)


class Clockwork:
    """Measures nothing: sparse models take half as long as dense ones, bfloat16 twice as long."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def __call__(self, wanted: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(wanted)
        factor = (2.0 if wanted["dtype"] == "bfloat16" else 1.0) * (
            1.0 if wanted["sparse"] == "dense" else 0.5
        )
        times = {
            "prompt_ms": [8 * factor] * wanted["repeats"],
            "token_ms": [factor] * wanted["repeats"],
            "text": [[1, 2 if factor == 2.0 else 3]],
        }
        return {
            "load_seconds": 1.0,
            "resident_bytes": int(1000 * factor),
            "peak_bytes": 0,
            "threads": 1,
            "formats": [{"bytes": 10, "format": "bits", "dtype": wanted["dtype"]}],
            "batches": {str(batch): times for batch in wanted["batches"]},
        }


def test_the_fastest_of_each_kind_are_compared_in_pairs() -> None:
    clockwork = Clockwork()
    result = compare_speed("pruned", "dense", setting=SETTING, worker=clockwork)
    speed = result["speed"]["1"]["generation"]
    assert (speed["dense"], speed["sparse"]) == ("dense float32", "sparse float32")
    assert speed["ratio"] == 2.0
    assert speed["turns"] == 9
    assert speed["claimed"]
    rates = result["arms"]["sparse float32"]["batches"]["2"]
    assert rates == {"tokens_per_second": 4000.0, "prompt_tokens_per_second": 4000.0}
    assert result["arms"]["sparse float32"]["matrices_bytes"] == 10
    assert result["same_text"] == {"float32": True, "bfloat16": False}


def test_models_take_turns_in_changing_order_and_choices_are_made_before() -> None:
    clockwork = Clockwork()
    compare_speed("pruned", "dense", dtypes=("float32",), setting=SETTING, worker=clockwork)
    first, *timed = clockwork.asked
    assert (first["sparse"], first["batches"]) == ("auto", [])
    kinds = [(wanted["model"], wanted["sparse"]) for wanted in timed]
    dense, sparse = ("dense", "dense"), ("pruned", "auto")
    assert kinds == [dense, sparse, sparse, dense, dense, sparse]


def test_a_model_that_does_not_load_is_one_line(tmp_path: Any) -> None:
    wanted = {"model": str(tmp_path), "sparse": "bits", "dtype": "float32", "threads": 1}
    with pytest.raises(SteppeError, match="must load and write"):
        in_fresh_process(wanted | {"prompt": 2, "tokens": 1, "batches": [1], "repeats": 1})
