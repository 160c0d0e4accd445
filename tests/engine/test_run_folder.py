"""One folder, one recipe, one job at a time."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from steppe import SteppeError
from steppe.core.serialization import PARTIAL
from steppe.engine.run_folder import LAST, PREVIOUS, RunFolder, alone_in

RECIPE = {
    "method": {"name": "safe", "budget": {"name": "uniform", "sparsity": 0.5}},
    "evaluate": {"texts": ["a", "b"]},
    "seed": 0,
}


def claimed(path: Path) -> RunFolder:
    folder = RunFolder(path, RECIPE)
    folder.claim()
    return folder


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"evaluate": {"texts": ["a"]}}, "evaluate.texts"),
        (
            {"method": {"name": "safe", "budget": {"name": "uniform", "sparsity": 0.6}}},
            "method.budget.sparsity",
        ),
        (
            {"method": {"name": "admm", "budget": {"name": "erk"}}},
            "method.budget.name, method.budget.sparsity, method.name",
        ),
        ({"evaluate": None, "more": {"a": 1}}, "evaluate, more"),
        ({"calibration": None}, "calibration"),
    ],
)
def test_another_recipe_is_refused_by_the_inner_name(
    change: dict[str, object], named: str, tmp_path: Path
) -> None:
    claimed(tmp_path)
    with pytest.raises(SteppeError, match=f"whose recipe differs in {named}. Way out"):
        RunFolder(tmp_path, RECIPE | change)
    assert RunFolder(tmp_path, dict(RECIPE)).record is None


def test_another_text_is_measured_of_what_a_finished_run_left(tmp_path: Path) -> None:
    recipe = {"evaluate": {"texts": ["a.txt"], "window": 16}, "seed": 0}
    other = recipe | {"evaluate": {"texts": ["b.txt"], "window": 16}}
    folder = RunFolder(tmp_path, recipe)
    folder.claim()
    way_out = r"steppe evaluate .* --on perplexity --text FILE"
    with pytest.raises(SteppeError, match=r"differs in evaluate\.texts\. Way out: choose"):
        RunFolder(tmp_path, other)  # there is nothing to measure yet
    folder.finish_record({"method": "gmp"})
    with pytest.raises(SteppeError, match=way_out):
        RunFolder(tmp_path, other)
    with pytest.raises(SteppeError, match=r"evaluate\.texts, seed\. Way out: choose"):
        RunFolder(tmp_path, other | {"seed": 1})


def test_the_command_that_goes_on_can_be_copied(tmp_path: Path) -> None:
    path, recipe = tmp_path / "my run", {"train": {"lr": 0.1}}
    RunFolder(path, recipe).claim()
    with pytest.raises(SteppeError, match="its own, if its rule is still the same") as refused:
        RunFolder(path, {"train": {"lr": 0.2}})
    command = str(refused.value).partition("; steppe")[2].partition(" goes on")[0]
    assert shlex.split(command) == ["train", str(path / "recipe.yaml"), "--out", str(path)]


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SteppeError, match="new, empty or earlier run's folder"):
        RunFolder(tmp_path, RECIPE)
    with pytest.raises(SteppeError, match="new, empty or earlier run's folder"):
        RunFolder(tmp_path / "thesis.txt", RECIPE)


def test_what_a_killed_run_was_writing_goes(tmp_path: Path) -> None:
    # killed while it wrote the recipe: the folder holds nothing that is a run's
    half = tmp_path / f".recipe.yaml.abc{PARTIAL}"
    half.write_text("meth")
    folder = claimed(tmp_path)
    inner = tmp_path / "checkpoints" / f".journal.json.x{PARTIAL}"
    inner.parent.mkdir()
    inner.write_text("{")
    (tmp_path / ".hidden").write_text("stays")
    with folder.alone():
        assert sorted(p.name for p in tmp_path.rglob("*")) == [
            ".hidden",
            "checkpoints",
            "recipe.yaml",
        ]


def test_one_job_at_a_time(tmp_path: Path) -> None:
    first, second = claimed(tmp_path), RunFolder(tmp_path, RECIPE)

    def work() -> None:
        with second.alone():
            pass

    with ThreadPoolExecutor(1) as another, first.alone():
        with pytest.raises(SteppeError, match="where another one is at work"):
            another.submit(work).result()
        with alone_in(tmp_path):
            work()  # a job that runs a part of itself has the folder already
        with pytest.raises(SteppeError, match="where another one is at work"):
            another.submit(work).result()
    with second.alone():
        pass
    with pytest.raises(KeyError), first.alone():
        raise KeyError
    with first.alone():
        pass


FORKED = """
import os, sys
from steppe.engine.run_folder import alone_in
with alone_in(sys.argv[1]):
    if os.fork():
        os._exit(0)
    print("alive", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forked processes here")
def test_a_process_that_was_forked_keeps_no_lock_of_a_killed_run(tmp_path: Path) -> None:
    """Those that decode images may live on for some seconds; the next start goes on at once."""
    with subprocess.Popen(
        [sys.executable, "-c", FORKED, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "alive\n"
        started.wait()
        with alone_in(tmp_path):
            pass
        assert started.stdin is not None
        started.stdin.close()


def test_a_record_says_that_it_is_done(tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    folder.finish_record({"a": 1})
    assert RunFolder(tmp_path, RECIPE).record == {"a": 1}
    assert json.loads((tmp_path / "record.json").read_text()) == {"a": 1}


def states(folder: RunFolder) -> Path:
    """Two checkpoints, the second one the last."""
    for epoch in (1, 2):
        folder.save_checkpoint({"epoch": epoch, "w": torch.full((50,), float(epoch))})
    return folder.path / "checkpoints"


def flip(path: Path) -> None:
    """One bit of the values, which no format notices by itself."""
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


DAMAGES = {
    "zeros": lambda path: path.write_bytes(b"\0" * 100),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-50]),
    "empty": lambda path: path.write_bytes(b""),
    "one bit": flip,
    "another file": lambda path: save_file({"a": torch.ones(1)}, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_two_checkpoints_the_last_whole_one_counts(damage: str, tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    assert folder.load_checkpoint() is None
    checkpoints = states(folder)
    whole = folder.load_checkpoint()
    assert whole is not None
    assert (whole["epoch"], folder.notes) == (2, [])
    DAMAGES[damage](checkpoints / LAST)
    earlier = folder.load_checkpoint()
    assert earlier is not None
    assert earlier["epoch"] == 1
    assert folder.notes == [f"checkpoint {LAST} is damaged; the one before it, {PREVIOUS}, is used"]
    DAMAGES[damage](checkpoints / PREVIOUS)
    folder = RunFolder(tmp_path, RECIPE)
    assert folder.load_checkpoint() is None
    assert folder.notes == [f"checkpoint {LAST} and {PREVIOUS} is damaged; the run begins anew"]


def test_killed_between_two_checkpoints_there_is_one(tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    (states(folder) / LAST).unlink()
    earlier = folder.load_checkpoint()
    assert earlier is not None
    assert earlier["epoch"] == 1


def test_a_record_that_is_not_whole_is_made_again_where_that_can_be(tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    for text in ("{", "[1]"):
        (tmp_path / "record.json").write_text(text)
        with pytest.raises(SteppeError, match="as it was written"):
            _ = folder.record
    folder.finish_record({"a": 1, "not_computed": ["the gain"]})
    assert folder.record == {"a": 1, "not_computed": ["the gain"]}, "there is nothing to go on from"
    states(folder)
    assert folder.record is None
    (tmp_path / "record.json").write_text("{")
    assert folder.record is None
    assert folder.notes == ["record.json was damaged; the end of the run is done again"]


def test_a_damaged_recipe_is_one_line(tmp_path: Path) -> None:
    for content in (b"a: [", b"\xff\xfe\x00"):
        (tmp_path / "recipe.yaml").write_bytes(content)
        with pytest.raises(SteppeError, match="as it was written"):
            RunFolder(tmp_path, RECIPE)


def test_what_a_run_inside_a_runs_folder_is_writing_is_left_to_it(tmp_path):
    folder = RunFolder(tmp_path, RECIPE)
    own, other = tmp_path / "checkpoints", tmp_path / "pruned"
    left = [place / ".last.safetensors.a1.partial" for place in (own, other / "checkpoints")]
    for file in left:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"half")
    (other / "recipe.yaml").write_text("method: dense\n")
    with folder.alone():
        assert [file.exists() for file in left] == [False, True]
