from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steppe.core.errors import SteppeError
from steppe.evaluation import make, speed


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"turns": 0}, "--turns is 1 or more"),
        ({"batches": "1,x"}, "whole numbers above 0"),
        ({"device": "cuda"}, "multiplied on the CPU"),
        ({"dtypes": " ,"}, "--dtypes names one or more"),
        ({"dtypes": "float33"}, "unknown dtype; got 'float33'"),
        ({"sparse": "bit"}, "unknown format; got 'bit'"),
        ({"sparse": "dense"}, "packed matrices are timed beside dense ones"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(SteppeError, match=said):
        make("speed", "nowhere", flags, []).measure()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "a model folder holds config.json"),
        ({"record.json": "{}", "recipe.yaml": "train: {}"}, "times a language model's folder"),
        ({"config.json": "{"}, "config.json must be JSON"),
        ({"config.json": '{"model_type": "vit", "architectures": ["ViTModel"]}'}, "ViTModel"),
    ],
)
def test_what_is_no_language_model_is_said_before_a_process_starts(
    files: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "compare_speeds", lambda *_, **__: pytest.fail("it started"))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SteppeError, match=said):
        make("speed", str(tmp_path), {}, []).measure()


def test_a_dense_model_that_is_not_there_is_said_first(
    language_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "compare_speeds", lambda *_, **__: pytest.fail("it started"))
    with pytest.raises(SteppeError, match=r"got \./nowhere"):
        make("speed", str(language_model), {"dense": "./nowhere"}, []).measure()


def test_the_line_says_what_is_not_sure() -> None:
    own = {"dense": "dense a", "sparse": "sparse a", "ratio": 1.02}
    own |= {"claimed": False, "low": 0.9, "high": 1.1, "turns": 8}
    arm = {"written_bytes": 2e6, "batches": {"1": {"tokens_per_second": 5.0}}}
    result = {
        "speed": {"1": {"generation": own}},
        "arms": {"dense a": arm, "sparse a": arm},
        "formats": [{"format": "bits"}, {"format": "dense"}],
    }
    line = make("speed", "run", {}, []).line(result, {})
    assert line == (
        "batch 1: 5 tokens/s, dense 5 (1.02x, not surely faster: 0.90x to 1.10x in 8 turns; "
        "--turns 16 narrow that); memory 2 MB, dense 2; 1 of 2 matrices packed"
    )
    result["formats"] = [{"format": "dense"}]
    assert make("speed", "run", {}, []).line(result, {}).startswith("nothing was packed")
