"""The study of detectors collects what it measured itself, and times each network by itself."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import detection_study
import pytest
from detection_study import Study, apart, measured_of, of_times, timed

FLAGS: dict[str, dict[str, Any]] = {"clean": {}, "corruptions": {"severities": "1,3,5"}}
SPEED = {"dense_ms": 2.0, "sparse_ms": 1.0}


def entry(on: str, result: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"on": on, "command": "", "options": {"device": "cpu"} | options, "result": result}


def keep(folder: Path, *entries: dict[str, Any]) -> None:
    (folder / "recipe.yaml").write_text("task: detection\n")
    (folder / "record.json").write_text("{}")
    (folder / "evaluations.json").write_text(json.dumps(entries))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path, "voc:cells", [0], FLAGS)


@pytest.fixture
def small(study: Study) -> Any:
    """A network without its channels, of which all was measured; others measured it as well."""
    training = next(t for t in study.every() if t.slim)
    folder = study.out / training.measured_folder
    folder.mkdir(parents=True)
    (study.out / detection_study.TABLE).write_text("a table")
    flags = of_times(study.out, training, 1)
    of_table = {"table_sha256": hashlib.sha256(b"a table").hexdigest()}
    keep(
        folder,
        entry("clean", {"map50": 0.1}, part="train"),
        entry("corruptions", {"mean_run": 0.2}, severities="1"),
        entry("latency", {"measured": {"ratio": 9.0}}, beside="another", table=None, threads=2),
        entry("clean", {"map50": 0.7}, part="test"),
        entry("corruptions", {"mean_run": 0.5}, severities="1,3,5"),
        entry("latency", {"measured": SPEED, "predicted_ms": [2, 1]} | of_table, **flags),
    )
    return training


def test_others_measurements_are_not_collected(study: Study, small: Any) -> None:
    found = measured_of(study.out, small, 1)
    assert found is not None
    assert found["clean"] == {"map50": 0.7}
    assert found["corruptions"] == {"mean_run": 0.5}
    assert found["latency"]["measured"] == SPEED
    folder = study.out / small.measured_folder
    keep(folder, entry("clean", {"map50": 0.7}), entry("corruptions", {}, severities="1"))
    assert measured_of(study.out, small, 1) is None, "nothing of the study's own flags"


def test_times_by_another_table_or_of_more_threads_are_none(
    study: Study, small: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (measured_of(study.out, small, 2) or {})["latency"] == {}
    (study.out / detection_study.TABLE).write_text("measured anew")
    assert (measured_of(study.out, small, 1) or {})["latency"] == {}
    assert f"another table: {small.name}" in capsys.readouterr().out


def test_every_network_is_timed_in_a_process_of_its_own(
    study: Study, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed: list[tuple[str, ...]] = []
    table = study.out / detection_study.TABLE

    def noted(*words: str) -> None:
        typed.append(words)
        if words[0] != "evaluate":
            return
        result = {"measured": SPEED, "predicted_ms": [2, 1]}
        result["table_sha256"] = hashlib.sha256(table.read_bytes()).hexdigest()
        keep(Path(words[1]), entry("latency", result, **of_times(study.out, small, 1)))

    monkeypatch.setattr(detection_study, "apart", noted)
    timed(study.out, [small], 1)
    assert [words[0] for words in typed] == ["latency"], "what holds is not done again"
    table.write_text("measured anew")
    timed(study.out, [small], 1)
    assert [words[0] for words in typed] == ["latency", "latency", "evaluate"]
    assert typed[-1][typed[-1].index("--table") + 1] == str(table)


def test_apart_is_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(
        detection_study.subprocess, "run", lambda words, check: started.append(words)
    )
    apart("latency", "RUN")
    assert started == [[sys.executable, "-m", "steppe", "latency", "RUN"]]
