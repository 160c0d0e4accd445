"""Some of the inputs of benchmarks/fuzz.py: a command works or says why not, and leaves no half."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"
# of those that once ended in a traceback, and some of each kind
CHOSEN = {
    "arguments": [3, 14, 31, 52, 60, 77, 95, 107, 118, 120],
    "recipe": [130, 133, 156, 162, 163, 170, 191, 200, 204, 211],
    "damage": [222, 225, 236, 240, 245, 247, 252, 267, 275, 276, 280, 284, 287, 298, 306, 323],
}


@pytest.fixture(scope="module")
def fuzz() -> Any:
    made = importlib.util.spec_from_file_location("fuzz", SOURCE)
    assert made is not None
    assert made.loader is not None
    module: ModuleType = importlib.util.module_from_spec(made)
    sys.modules["fuzz"] = module
    made.loader.exec_module(module)
    yield module
    del sys.modules["fuzz"]


@pytest.fixture(scope="module")
def folders(fuzz: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    at = fuzz.Folders(tmp_path_factory.mktemp("fuzz"))
    at.make(compact=False)
    return at


@pytest.mark.parametrize("kind", CHOSEN)
def test_wrong_input_is_refused_in_a_line(fuzz: Any, folders: Any, kind: str) -> None:
    outcomes = [fuzz.attempt(folders, number, kind) for number in CHOSEN[kind]]
    assert {o.number: o.failure for o in outcomes if o.failure} == {}
    codes = [o.code for o in outcomes]
    assert codes.count(2) >= len(codes) // 2


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raises", "KeyError: 'a key'"),
        ("silent", "no line that says why"),
        ("one", "exit code 1"),
        ("half", "left ['model.safetensors']"),
    ],
)
def test_what_fails_is_seen(
    fuzz: Any, folders: Any, monkeypatch: pytest.MonkeyPatch, how: str, said: str
) -> None:
    def fails(words: list[str]) -> None:
        if how == "half":
            (folders.work / "scratch/3").mkdir(parents=True)
            (folders.work / "scratch/3/model.safetensors").write_text("")
            print("steppe: no", file=sys.stderr)
        if how == "raises":
            raise KeyError("a key")
        sys.exit(1 if how == "one" else 2)

    monkeypatch.setattr(fuzz, "steppe_command", fails)
    monkeypatch.setitem(fuzz.KINDS, "arguments", lambda at, draw, out: (["train"], "nothing"))
    assert said in fuzz.attempt(folders, 3, "arguments").failure
