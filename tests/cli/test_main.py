"""What holds for every command: one short line in the list, and the version."""

from __future__ import annotations

import ast
import errno
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import steppe
import steppe.cli.main as main_module
from steppe.cli.main import GOES_ON, STOPPED, commands, main


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
        (["train", "--warmup-epochs", "0"], "a key of recipes: --set train.warmup_epochs=VALUE"),
        (["train", "--resize", "256"], "--set data.resize=VALUE"),
        (["sweep", "digits", "--size", "8"], "--set data.size=VALUE"),
        (["sweep", "digits", "--rho", "0.1"], "--set method.rho=VALUE"),
        (["tune", "digits", "--epochs", "3"], "--set train.epochs=VALUE"),
        (["prune", "X", "--momentum", "3"], "see steppe prune --help"),
        (["report", "X", "--iterations", "3"], "see steppe report --help"),
        (["prune"], "see steppe prune --help"),
        (["trian"], "see steppe --help"),
        (["evaluate", "X", "--on", "clean", "corruptions"], "no spaces: --on A,B; see steppe eval"),
        (["remove", "X", "Y", "--out", "Z"], "(Y) (see steppe remove --help)"),
    ],
)
def test_what_is_no_flag_but_can_be_set(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.EROFS, "choose another --out"), (errno.EACCES, "change their rights")],
)
def test_what_the_system_refuses_says_what_helps(
    number: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: object, **options: object) -> None:
        raise OSError(number, os.strerror(number), "some/folder")

    monkeypatch.setattr(commands().commands["remove"], "invoke", refused)
    monkeypatch.setattr(commands().commands["remove"], "parse_args", lambda ctx, args: args)
    run("remove", code=2)
    line = capsys.readouterr().err.splitlines()[-1]
    assert said in line
    assert "some/folder" in line


SRC = Path(steppe.__file__).parent
ASKED = [path for part in ("cli", "experiment", "recipes") for path in (SRC / part).rglob("*.py")]


def errors_without_a_way_out() -> Iterator[str]:
    """Errors of users' mistakes that say no way out, where the command line speaks."""
    for path in ASKED:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "SteppeError":
                given = {word.arg for word in node.keywords}
                if "way_out" not in given:
                    yield f"{path.relative_to(SRC)}:{node.lineno} {ast.unparse(node.args[0])}"


def test_every_error_of_the_command_line_names_a_way_out() -> None:
    assert len(ASKED) > 50
    assert not list(errors_without_a_way_out())


@pytest.mark.parametrize("verb", sorted(commands().commands))
def test_ctrl_c_says_whether_the_command_goes_on(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*words: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands().commands[verb], "invoke", stopped)
    monkeypatch.setattr(commands().commands[verb], "parse_args", lambda ctx, args: args)
    run(verb, code=130)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(STOPPED)
    resumed = {"train", "prune", "recover", "sweep", "tune", "demo", "bisect", "reach", "latency"}
    assert said.endswith(GOES_ON) == (verb in resumed)


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


PLURAL = re.compile(r"^ (?:\w+ )?(\w+s)\b(?!/)")
UNITS = {"ms", "MB", "s", "classes", "times", "as"}


def numbers_before_plurals() -> Iterator[str]:
    """Numbers in what commands say with a noun that is right for all but 1."""
    for path in [p for part in ("cli", "evaluation") for p in (SRC / part).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for before, value, after in zip([None, *parts], parts, parts[1:], strict=False):
                if not (isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant)):
                    continue
                of = isinstance(before, ast.Constant) and str(before.value).endswith(
                    (" of ", "the ")
                )
                noun = PLURAL.match(str(after.value))
                counts = isinstance(value.value, ast.Call) and "len(" in ast.unparse(value.value)
                counts = counts or "result[" in ast.unparse(value.value)
                if noun and counts and not of and noun[1] not in UNITS:
                    yield f"{path.relative_to(SRC)}:{node.lineno} {ast.unparse(value)} {noun[0]}"


def test_what_is_counted_has_a_singular() -> None:
    assert not list(numbers_before_plurals()), "steppe.core.text.counted"
