from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from steppe.cli.main import STOPPED, main
from steppe.cli.verb_bench import _table
from steppe.evaluation.speed import GenerationSpeed
from steppe.llm.generation_speed import compare_speed


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
    assert result["speed"]["1"]["generation"]["turns"] == 1
    for said in ("memory, loaded, MB", "memory, most in loading, MB", "1 turns bound nothing"):
        assert said in " ".join(shown.err.split())
    (kept,) = json.loads((out / "evaluations.json").read_text())
    assert kept["on"] == "speed"
    assert kept["result"]["speed"] == result["speed"]


RESULT = {
    "arms": {
        f"{kind} {dtype}": {
            "resident_bytes": 123456789.0,
            "written_bytes": 234567891.0,
            "peak_bytes": None if kind == "dense" else 345678912.0,
            "matrices_bytes": 99999999,
            "load_seconds": 12.34,
            "turns": 0 if dtype == "bfloat16" else 8,
            "batches": {
                batch: {"tokens_per_second": 1234.5, "prompt_tokens_per_second": 12345.6}
                for batch in ("1", "4", "16")
            },
        }
        for dtype in ("float32", "bfloat16")
        for kind in ("dense", "sparse")
    },
    "speed": {"1": {}, "4": {}, "16": {}},
}


def test_the_table_fits_a_terminal_of_80_columns() -> None:
    file = StringIO()
    Console(width=80, file=file).print(_table(RESULT))
    shown = file.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    assert ["memory, loaded, MB", "123.5", "123.5", "123.5", "123.5"] in rows
    most = ["memory, most in loading, MB", "not known", "345.7", "not known", "345.7"]
    assert most in rows
    assert ["turns", "8", "8", "a look", "a look"] in rows
    assert ["writes, batch 16, tokens/s", "1234", "1234", "1234", "1234"] in rows


def test_twice_the_same_is_kept_once_and_an_interruption_keeps_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = compare_speed("a", "a", format="bits", dtypes=("float32",), worker=_told)
    monkeypatch.setattr(GenerationSpeed, "measure", lambda _: result)
    kept = tmp_path / "evaluations.json"
    texts = []
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(["bench", str(tmp_path)])
        assert not ended.value.code
        texts.append(kept.read_text())
    assert texts[0] == texts[1]
    assert len(json.loads(texts[0])) == 1

    def stopped(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(GenerationSpeed, "measure", stopped)
    with pytest.raises(SystemExit) as ended:
        main(["bench", str(tmp_path)])
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == STOPPED
    assert kept.read_text() == texts[0]
    assert [path.name for path in tmp_path.iterdir()] == ["evaluations.json"]


def _told(wanted: dict[str, Any]) -> dict[str, Any]:
    took = {"prompt_ms": [1.0], "token_ms": [1.0], "text": [[1]]}
    memory = dict.fromkeys(("before_bytes", "resident_bytes", "written_bytes", "peak_bytes"), 1)
    rest: dict[str, Any] = {"load_seconds": 1.0, "threads": 1, "formats": []}
    return memory | rest | {"batches": {str(batch): took for batch in wanted["batches"]}}
