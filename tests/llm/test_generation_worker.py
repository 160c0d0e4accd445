from __future__ import annotations

from pathlib import Path

from steppe.llm.generation_worker import measured, peak, resident


def test_one_model_is_loaded_and_writes(language_model: Path) -> None:
    wanted = {"model": str(language_model), "sparse": "bits", "dtype": "float32", "threads": None}
    result = measured(wanted | {"prompt": 4, "tokens": 3, "batches": [1, 2], "repeats": 2})
    assert list(result["batches"]) == ["1", "2"]
    for batch, own in result["batches"].items():
        assert len(own["token_ms"]) == len(own["prompt_ms"]) == 2
        assert [len(text) for text in own["text"]] == [4] * int(batch)
    dense = measured(
        wanted | {"sparse": "dense", "prompt": 4, "tokens": 3, "batches": [1], "repeats": 1}
    )
    assert dense["batches"]["1"]["text"] == result["batches"]["1"]["text"]


def test_memory_is_what_the_system_says() -> None:
    assert 0 < resident() <= peak()
