from __future__ import annotations

import json
from pathlib import Path

import pytest

from steppe.cli.main import main


def test_a_pruned_model_is_timed_and_the_result_is_kept(
    language_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    prune = ["prune", language_model, "--method", "magnitude", "--sparsity", "0.9", "--out", out]
    bench = ["bench", out, "--sparse", "bits", "--dtypes", "float32", "--prompt", "4", "--json"]
    bench += ["--tokens", "2", "--batches", "1", "--turns", "1", "--repeats", "1"]
    for command in ([*prune, "--quiet"], bench):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, command)])
        assert ended.value.code in (0, None)
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert set(result["arms"]) == {"dense float32", "sparse float32"}
    assert result["same_text"] == {"float32": True}
    assert "sparse float32" in shown.err
    assert "tokens/s" in shown.err
    (kept,) = json.loads((out / "evaluations.json").read_text())
    assert kept["on"] == "speed"
    assert kept["result"]["speed"] == result["speed"]
