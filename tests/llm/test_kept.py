"""Where things are kept from run to run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from steppe.core.errors import SteppeError
from steppe.engine.run_folder import RunFolder
from steppe.llm.kept import kept, made, one_at_a_time


def test_a_cache_that_cannot_be_written_gives_way_to_the_runs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made("tokens", "a", tmp_path / "run") == kept("tokens") / "a"
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = made("tokens", "a", tmp_path / "run")
    assert folder.is_dir()
    assert folder.is_relative_to(tmp_path / "run")
    RunFolder(tmp_path / "run", {})  # which is still as good as new
    with pytest.raises(SteppeError, match="XDG_CACHE_HOME"):
        made("tokens", "a")


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    handle = os.open(tmp_path, os.O_RDONLY)
    with one_at_a_time(tmp_path), pytest.raises(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)
