from __future__ import annotations

import json
import re
import shutil
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from steppe import methods
from steppe.cli import verb_bench
from steppe.cli.main import STOPPED, main
from steppe.cli.verb_bench import _points_table, _table
from steppe.evaluation import speed as evaluation
from steppe.llm.generation_speed import compare_speed, compare_speeds
from steppe.llm.prune import prune
from steppe.llm.tradeoff import TradeOff


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
    for said in ("memory, loaded, MB", "memory, most in loading, MB", "1 turn bounds nothing"):
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
    monkeypatch.setattr(verb_bench, "measured_together", lambda own: [(own[0], result)])
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

    monkeypatch.setattr(verb_bench, "measured_together", stopped)
    with pytest.raises(SystemExit) as ended:
        main(["bench", str(tmp_path)])
    assert ended.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == STOPPED
    assert kept.read_text() == texts[0]
    assert [path.name for path in tmp_path.iterdir()] == ["evaluations.json"]


def _told(wanted: dict[str, Any]) -> dict[str, Any]:
    took = {"prompt_ms": [1.0], "token_ms": [1.0], "text": [[1]]}
    memory = dict.fromkeys(("before_bytes", "resident_bytes", "written_bytes", "peak_bytes"), 1)
    rest: dict[str, Any] = {"load_seconds": 1.0, "threads": 1, "formats": []}
    return memory | rest | {"batches": {str(batch): took for batch in wanted["batches"]}}


RATES = {"dense": 1.0, "zeros": 1.0, "slim": 0.5}
"""Milliseconds of a token, by the folder's name."""


def _of_folder(wanted: dict[str, Any]) -> dict[str, Any]:
    times = {"prompt_ms": [1.0], "token_ms": [RATES.get(Path(wanted["model"]).name, 1.0)]}
    told = _told(wanted)
    return told | {"batches": {b: times | {"text": [[1]]} for b in told["batches"]}}


@pytest.fixture
def pruned(
    language_model: Path, word_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """A model with zeros and one with half of the neurons, and a clock that is told the times."""
    options: dict[str, Any] = {"samples": 4, "window": 16}
    slim = methods.slim(sparsity=0.5, structure="neurons")
    prune(language_model, slim, word_text, tmp_path / "slim", **options)
    prune(language_model, methods.magnitude(sparsity=0.5), None, tmp_path / "zeros", **options)
    monkeypatch.setattr(evaluation, "compare_speeds", partial(compare_speeds, worker=_of_folder))
    return tmp_path / "zeros", tmp_path / "slim"


def test_several_models_are_points_and_each_keeps_its_own(
    pruned: tuple[Path, Path],
    language_model: Path,
    word_text: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(path.name for path in language_model.iterdir())
    command = ["bench", *pruned, language_model, "--text", word_text, "--window", "16", "--json"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in command])
    assert not ended.value.code
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert list(result["runs"]) == [str(path) for path in pruned], "the dense one is beside them"
    points = result["points"]
    assert [points[n]["kind"] for n in points] == ["dense", "unstructured", "structured"]
    assert points["zeros"]["disk_bytes"] > points["slim"]["disk_bytes"]
    assert points["zeros"]["packed_bytes"] < points["dense"]["packed_bytes"]
    assert points["slim"]["rate"] == 2 * points["dense"]["rate"]
    assert "slim: 2.00x, surely faster" in shown.err
    for path in pruned:
        (kept,) = json.loads((path / "evaluations.json").read_text())
        assert kept["options"]["dense"] == str(language_model)
        assert kept["result"]["points"]["dense"]["perplexity"] == points["dense"]["perplexity"]
    assert sorted(path.name for path in language_model.iterdir()) == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "what they predict.*--text FILE"),
        (["--text", "words", "--dense", "nowhere"], "nowhere"),
        (["--text", "words", "elsewhere"], "no record of what it was made from.*--dense MODEL"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    pruned: tuple[Path, Path],
    more: list[str],
    said: str,
    word_text: Path,
    language_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(language_model, tmp_path / "elsewhere")
    named = {"words": word_text, "elsewhere": tmp_path / "elsewhere"}
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(named.get(str(word), word)) for word in ("bench", *pruned, *more)])
    assert ended.value.code == 2
    shown = capsys.readouterr().err.strip()
    assert re.search(said, shown)
    assert "\n" not in shown


def test_the_points_fit_a_terminal_of_80_columns() -> None:
    kinds = ("dense", "unstructured", "N:M", "structured", "structured and unstructured")
    points = {
        f"tiny-llama-{i}": TradeOff(kind, 36.649 + i, 1.14e7, 1.14e7 - i, 512.3, {})
        for i, kind in enumerate(kinds)
    }
    file = StringIO()
    Console(width=80, file=file).print(_points_table(points))
    shown = file.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    assert "36.65" in shown
