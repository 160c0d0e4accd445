"""What holds for every command: one short line in the list, and the version."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import steppe
import steppe.cli.main as main_module
from steppe.cli.main import commands, main


def run(*arguments: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == code


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    run("--version")
    assert capsys.readouterr().out == f"steppe {steppe.__version__}\n"


def test_every_command_is_listed_with_a_whole_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    run("--help")
    listed = capsys.readouterr().out.splitlines()
    # a former name is not shown
    for name in (n for n, command in commands().commands.items() if not command.hidden):
        line = next(line for line in listed if line.split()[:1] == [name])
        assert line.endswith("."), line
        assert not line.endswith("..."), line


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    run("trian", code=2)
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prune", "X", "--iterations", "3"], "an option of alps: --set method.iterations=VALUE"),
        (["train", "--alpha", "3"], "--set method.alpha=VALUE"),
        (["report", "X", "--iterations", "3"], "see steppe --help"),
        (["prune"], "see steppe --help"),
    ],
)
def test_an_option_of_a_method_that_is_no_flag(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("prune", "MODEL", "--method", "magnitude", "--sparsity", "0.5"),
        ("plan", "org/name", "--method", "magnitude", "--sparsity", "0.5"),
        ("evaluate", "org/name", "--on", "perplexity", "--text", "text.txt"),
    ],
)
def test_without_transformers_one_line_names_the_extra(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "MODEL").mkdir()
    (tmp_path / "text.txt").write_text("a text")
    monkeypatch.setitem(sys.modules, "transformers", None)
    run(*arguments, code=2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("Way out: pip install 'steppe[llm]'")


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied", "a/b"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory:\nyou tried"),
    ],
)
def test_what_the_machine_refuses_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(main_module, "commands", lambda: fails)
    with pytest.raises(SystemExit) as ended:
        main_module.main(["methods"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("steppe: ")
    assert ("a/b" in said) == isinstance(error, OSError)


def test_an_error_that_only_speaks_of_memory_is_no_lack_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise RuntimeError("unsupported memory format option")

    monkeypatch.setattr(main_module, "commands", lambda: fails)
    with pytest.raises(RuntimeError, match="memory format"):
        main_module.main(["methods"])
