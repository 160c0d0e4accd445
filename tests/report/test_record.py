"""Run folders are read, or one line says why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steppe.core.errors import SteppeError
from steppe.methods import METHODS
from steppe.report.record import display, displays, read_records, setting_of, sigmas_of
from steppe.report.table import Rows


def test_folders_and_files(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps({"method": "safe"}))
    (folder,) = read_records([tmp_path, str(tmp_path)])
    (file,) = read_records([str(tmp_path / "record.json")])
    assert file == {"method": "safe"}
    assert folder == file | {"commands": [], "evaluations": {}, "unlike": []}


def test_a_folder_of_runs_is_its_runs(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(json.dumps({"method": name}))
    assert [r["method"] for r in read_records([tmp_path, tmp_path / "a"])] == ["a", "b"]


def test_what_evaluate_left_comes_along(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(json.dumps({"method": "safe"}))
    (tmp_path / "recipe.yaml").write_text("name: x\ntrain:\n  epochs: 1\n")
    entries = [
        {"on": "clean", "command": "one", "result": {"accuracy": 0.1}},
        {"on": "clean", "command": "two", "result": {"accuracy": 0.2}},
    ]
    (tmp_path / "evaluations.json").write_text(json.dumps(entries))
    (record,) = read_records([tmp_path])
    assert record["evaluations"] == {"clean": {"accuracy": 0.2}}  # the last of a kind
    again = f"steppe train {tmp_path}/recipe.yaml --out {tmp_path}"
    assert record["commands"] == [again, "two"]
    (tmp_path / "evaluations.json").write_text("[1]")
    with pytest.raises(SteppeError, match=r"evaluations\.json"):
        read_records([tmp_path])


def test_the_commands_of_a_network_that_remove_made(tmp_path: Path) -> None:
    run, small = tmp_path / "run", tmp_path / "small"
    for folder in (run, small):
        folder.mkdir()
        (folder / "recipe.yaml").write_text("name: x\ntrain:\n  epochs: 1\n")
    train = f"steppe train {run}/recipe.yaml --out {run}"

    def commands(removed: object, label: str = "HALP, removed") -> list[str]:
        record = {"method": "halp", "label": label, "removed": removed}
        (small / "record.json").write_text(json.dumps(record))
        return list(read_records([small])[0]["commands"])

    remove = f"steppe remove {run} --out {small}"
    assert commands({"source": "../run"}) == [train, remove]
    assert commands({"source": "../run", "onnx": {"error": 0.0}}) == [train, f"{remove} --onnx"]
    (older,) = commands({"parameters": [2, 1]})
    assert older == f"# steppe remove made {small}; its record does not say of which run"
    (run / "recipe.yaml").unlink()  # the recipe that was copied is the same
    moved = f"steppe train {small}/recipe.yaml --out {run}"
    assert commands({"source": "../run"}) == [moved, remove]
    assert commands({"parameters": [2, 1]}, "") == [
        f"steppe train {small}/recipe.yaml --out {small}"
    ]


@pytest.mark.parametrize("text", [None, "{", "[1]"])
def test_what_is_no_record(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "record.json").write_text(text)
    with pytest.raises(SteppeError, match=r"record"):
        read_records([tmp_path])


def test_strengths_of_noise_are_numbers() -> None:
    runs = [{"noise": {"0.10": 1, "0.1": 1, "2": 1, "x": 1}}, {"noise": None}, {}]
    assert sigmas_of(runs) == [(0.1, "0.10"), (2.0, "2")]


def test_a_newer_or_broken_record_names_its_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"schema_version": 2, "method": "safe"}))
    with pytest.raises(SteppeError, match=r"record\.json, whose schema_version is 2"):
        read_records([tmp_path])
    path.write_text(json.dumps({"method": "safe", "sparse": {"loss": "low"}}))
    with pytest.raises(SteppeError, match=r"record\.json: sparse\.loss: "):
        read_records([tmp_path])


def test_a_method_is_called_what_its_record_says() -> None:
    for name in METHODS:
        if name != "dense":  # a row of its own, that of the network before pruning
            assert display({"method": name}) == METHODS[name].display
    assert display({"method": "outside", "method_display": "Outside!"}) == "Outside!"
    assert display({"method": "outside"}) == "outside"
    assert display({"method": "safe", "method_display": "SAFE", "label": "mine"}) == "mine"
    assert display({"method": {"name": "safe_plus"}}) == "SAFE+"
    runs = [
        {"method": "outside", "method_display": "Outside!", "seed": s, "sparse": {"loss": 1.0}}
        for s in range(2)
    ]
    assert displays(runs) == {"outside": "Outside!"}
    assert "| Outside! | – | 2 | 1 |" in Rows.from_records(runs).markdown()


def test_detection_data_have_one_name_by_whatever_path_they_were_read() -> None:
    """So that runs of both stand in one report."""
    run = {"recipe": {"model": {"name": "ssd_small"}, "data": {"name": "voc:BCCD"}}}
    elsewhere = {"recipe": run["recipe"] | {"data": {"name": "voc:/data/BCCD/"}}}
    assert setting_of(run) == setting_of(elsewhere) == "ssd_small on voc:BCCD"
