"""The journal: whole at every moment, plain data."""

from __future__ import annotations

from pathlib import Path

import pytest

from steppe import SteppeError
from steppe.engine.blockwise.journal import Journal


def test_what_was_put_is_there_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.json"
    journal = Journal(path)
    assert not path.parent.exists(), "reading makes nothing"
    assert journal.get("blocks") is None
    assert journal.get("blocks", []) == []
    journal.put(blocks=[{"block": 0}], counts={"a": 3})
    journal.put(blocks=[{"block": 0}, {"block": 1}])
    again = Journal(path)
    for opened in (journal, again):
        assert opened.get("blocks") == [{"block": 0}, {"block": 1}]
        assert opened.get("counts") == {"a": 3}
    assert [p.name for p in path.parent.iterdir()] == ["journal.json"]


def test_what_is_held_does_not_change_behind_its_back(tmp_path: Path) -> None:
    journal, rows = Journal(tmp_path / "j.json"), [1]
    journal.put(rows=rows, pair=(1, 2))
    rows.append(2)
    assert journal.get("rows") == [1]
    assert journal.get("pair") == [1, 2], "as it will be read again"


def test_a_full_disk_leaves_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "j.json")
    journal.put(rows=[1])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        with pytest.raises(SteppeError, match="No space left"):
            journal.put(rows=[1, 2])
    assert Journal(tmp_path / "j.json").get("rows") == [1]
    assert len(list(tmp_path.iterdir())) == 1
