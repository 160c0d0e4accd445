"""What steppe warns of is of a class of its own."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

import pytest

import steppe
from steppe.core.notes import Note, note

SRC = Path(steppe.__file__).parent


def test_a_note_is_of_the_line_that_is_meant() -> None:
    def asked() -> None:
        note("of who asks", stacklevel=2)

    with pytest.warns(Note, match="of who asks") as seen:
        asked()
    assert Path(seen[0].filename) == Path(__file__)
    line = Path(__file__).read_text().splitlines()[seen[0].lineno - 1]
    assert line.strip() == "asked()"


def test_whatever_steppe_warns_of_has_a_class() -> None:
    """UserWarning, what is taken where none is given, is everybody's."""
    bare = []
    for file in sorted(SRC.rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("warnings.warn"):
                given = [*map(ast.unparse, call.args[1:2])]
                given += [ast.unparse(k.value) for k in call.keywords if k.arg == "category"]
                if given in ([], ["UserWarning"]):
                    bare.append(f"{file.relative_to(SRC)}:{call.lineno}")
    assert not bare


def test_other_warnings_stay_warnings_on_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that libraries give for a line of steppe."""
    from steppe.cli import main, verb_methods

    def warned(arguments: list[str], **options: object) -> int:
        registry: dict[str, object] = {}
        for kind in (UserWarning, Note):
            text, file = f"of {kind.__name__}", str(SRC / "x.py")
            warnings.warn_explicit(text, kind, file, 1, registry=registry)
        return 0

    assert verb_methods is not None
    for arguments in (["methods"], ["methods", "--quiet"]):
        monkeypatch.setattr(main, "commands", lambda: warned)
        with pytest.raises(SystemExit), pytest.warns(UserWarning, match="of UserWarning") as seen:
            main.main(arguments)
        assert [str(one.message) for one in seen] == ["of UserWarning"]
        assert ("note: of Note" in capsys.readouterr().err) == (len(arguments) == 1)
