"""A mistyped path is said at once by whatever takes a folder, and retries of the hub are silent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from steppe.cli import verb_train
from steppe.core.errors import SteppeError
from steppe.core.hub_names import is_hub_id, nearest, silent_retries
from steppe.experiment.experiment import read_run
from steppe.experiment.read import read_plain
from steppe.llm.checkpoint import folder_of
from steppe.llm.export import export
from steppe.report.record import read_records
from steppe.vision.data import resolve
from steppe.vision.data.levels import Reading
from steppe.vision.detection.models import build as build_detector
from steppe.vision.models import build


def _begin(name: str) -> object:
    return verb_train._named(name)


TAKERS: dict[str, Callable[[str], object]] = {
    "a classifier": lambda name: build(name, 10),
    "a detector": lambda name: build_detector(name, 3, (3, 64, 64)),
    "a language model": folder_of,
    "a dataset": lambda name: resolve(name, Reading()),
    "a run": lambda name: read_run(Path(name)),
    "a report": lambda name: read_records([Path(name)]),
    "training": _begin,
    "an export": lambda name: export(Path(name), "compact", Path("out")),
}


@pytest.mark.parametrize("taker", TAKERS)
def test_a_mistyped_folder_is_said_at_once(
    taker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a folder that is here a name is a path: the hub is not asked for it."""
    (tmp_path / "runs" / "small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("socket.getaddrinfo", lambda *a, **k: pytest.fail("the network was asked"))
    for name in ("runs/smal", "./runs/smal", str(tmp_path / "runs" / "smal")):
        with pytest.raises(SteppeError, match=r"did you mean \S*runs/small\?") as refused:
            TAKERS[taker](name)
        assert "smal" in str(refused.value.got)


def test_a_mistyped_recipe_is_said(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("{}")
    with pytest.raises(SteppeError, match=r"did you mean \S*/mine\.yaml\?"):
        read_plain(tmp_path / "mines.yaml")


def test_of_what_is_there_nothing_is_guessed(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small2").mkdir()
    assert nearest(tmp_path / "small") == ""
    assert nearest(tmp_path / "else") == ""


def test_an_id_of_the_hub_has_no_owner_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("runs/small")
    Path("runs").mkdir()
    assert not is_hub_id("runs/small")


def test_retries_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("huggingface_hub.utils._http")
    with silent_retries():
        log.warning("Retrying in 8s")
        log.error("broken")
    log.warning("later")
    assert [record.message for record in caplog.records] == ["broken", "later"]
