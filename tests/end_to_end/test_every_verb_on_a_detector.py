"""Every verb of the command line given a detector: it works, or refuses in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import voc_folder
from steppe.cli.main import commands, main

PLAIN: dict[str, Any] = {
    "task": "detection",
    "model": {"name": "ssd_small", "options": {"width": 0.25}},
    "train": {"epochs": 1, "batch_size": 4, "bn_batches": 1, "eval_every": 0},
    "device": "cpu",
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, its run, and the run of a method whose sparsity is an outcome."""
    folder = tmp_path_factory.mktemp("verbs")
    root = voc_folder.write(folder / "voc", train=4, test=2)
    data = {"name": f"voc:{root}", "size": 64, "augment": "none"}
    methods: dict[str, dict[str, Any]] = {
        "gmp": {"name": "gmp", "sparsity": 0.5},
        "str": {"name": "soft_threshold", "sparsity": 0.5, "start": -4.0},
    }
    for name, method in methods.items():
        recipe = yaml.safe_dump(PLAIN | {"data": data, "method": method})
        (folder / f"{name}.yaml").write_text(recipe)
    typed("train", folder / "gmp.yaml", "--out", folder / "gmp", "--quiet")
    return folder


def typed(*words: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == code


REFUSED = {
    "bench": (["RUN"], "steppe bench times language models; got .*a run on images"),
    "export": (["RUN", "--to", "onnx", "--out", "OUT"], "steppe export is for language models"),
    "plan": (["RUN", "--method", "wanda", "--sparsity", "0.5"], "a model folder holds config.json"),
    "prune": (
        ["RUN", "--method", "wanda", "--sparsity", "0.5", "--out", "OUT"],
        "a model folder holds config.json",
    ),
    "recover": (["RUN", "--out", "OUT"], "a model folder holds config.json"),
    "remove": (["RUN", "--out", "OUT"], "some channel must be zero"),
}
WORKS = {"train", "evaluate", "report", "sweep", "tune", "bisect", "latency"}
NOT_OF_A_RUN = {"demo", "diagonal", "methods", "recipes"}


def test_no_verb_was_forgotten() -> None:
    known = {name for name, command in commands().commands.items() if not command.hidden}
    assert known == {*REFUSED, *WORKS, *NOT_OF_A_RUN}


@pytest.mark.parametrize("verb", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(
    here: Path, verb: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words, said = REFUSED[verb]
    places = {"RUN": here / "gmp", "OUT": tmp_path / "out"}
    typed(verb, *(places.get(word, word) for word in words), code=2)
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert re.search(said, line)


def test_bisect_finds_the_option_of_a_detector(
    here: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = [here / "str.yaml", "--out", tmp_path / "runs", "--tries", 2, "--tolerance", 1]
    typed("bisect", *where, "--option", "train.weight_decay", "--json")
    shown = capfd.readouterr()
    found = json.loads(shown.out)
    assert found["reached"]
    assert found["nearest"]["map50"] is not None
    assert "zeros by itself, mAP@0.5, % " in shown.err
    assert "UserWarning" not in shown.err
    record = json.loads((Path(found["nearest"]["run"]) / "record.json").read_text())
    assert record["recipe"]["task"] == "detection"


def test_a_sweep_names_its_quality_and_shows_notes_once(
    here: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    typed("sweep", here / "gmp.yaml", "--vary", "train.lr=1e-3,1e-2", "--out", tmp_path / "s")
    said = capfd.readouterr().err
    assert "the best by mAP@0.5 on the test images" in said
    assert "UserWarning" not in said
    assert said.count("note: trained on trainval, tested on test") == 1


def test_what_train_proposes_works(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    typed("train", here / "gmp.yaml", "--out", here / "gmp")
    said = capfd.readouterr().err
    assert "steppe remove" not in said, "no channel of it is zero"
    assert (here / "gmp" / "report.html").is_file()
    typed("report", here / "gmp", "--out", here / "again.html", "--quiet")


def test_a_language_model_is_no_case_for_bisect(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = {"task": "causal_lm", "model": "m", "data": "t.txt", "method": "gmp"}
    (tmp_path / "language.yaml").write_text(yaml.safe_dump(plain))
    typed("bisect", tmp_path / "language.yaml", "--out", tmp_path / "runs", code=2)
    assert "steppe bisect runs recipes of images" in capfd.readouterr().err
