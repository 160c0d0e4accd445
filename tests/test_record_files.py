"""Scripts of benchmarks/ overwrite no record in git unless they are asked to."""

from __future__ import annotations

import argparse
import ast
import json
import re
from pathlib import Path

import pytest
from record_file import COMMITTED, PLAIN, add_record, record_of, write_record

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = [
    path
    for folder in ("", "llm")
    for path in sorted((BENCHMARKS / folder).glob("*.py"))
    if path.name != "record_file.py"
]
RECORDS = sorted(COMMITTED.glob("*.json"))
FOLDER = re.compile(r"(^|/)records(/|$)")


def parsed(words, name="step"):
    parser = argparse.ArgumentParser()
    parser.add_argument("--on", default="digits")
    add_record(parser, name)
    return record_of(parser.parse_args(words))


def test_a_plain_run_writes_where_git_does_not_look():
    assert parsed([]) == PLAIN / "step.json"
    ignored = (BENCHMARKS.parent / ".gitignore").read_text().splitlines()
    assert f"{PLAIN.parts[0]}/" in ignored
    assert not PLAIN.is_absolute()


def test_the_record_in_git_is_renewed_when_asked(tmp_path):
    assert parsed(["--record"]) == COMMITTED / "step.json" == BENCHMARKS / "records/step.json"
    assert parsed(["--record", str(tmp_path / "own.json")]) == tmp_path / "own.json"
    assert parsed(["--record"], "pilot-{on}") == COMMITTED / "pilot-digits.json"
    assert parsed(["--on", "small"], "pilot-{on}") == PLAIN / "pilot-small.json"


def test_an_argument_behind_the_option_is_not_taken_for_its_file(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parsed(["--record", str(tmp_path)])
    assert "--record alone goes last" in capsys.readouterr().err


def test_a_record_is_whole_and_its_folder_made(tmp_path):
    write_record(tmp_path / "new" / "one.json", {"a": 1})
    assert json.loads((tmp_path / "new" / "one.json").read_text()) == {"a": 1}


def named(tree):
    """Strings of the code that name the folder; not docstrings."""
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) and id(node) not in told else None
        if isinstance(text, str) and FOLDER.search(text):
            yield f"{node.lineno}: {text}"


def calls(tree, name):
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == name]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_only_one_file_knows_where_the_records_in_git_are(path):
    tree = ast.parse(path.read_text())
    assert not list(named(tree)), "add_record(parser, NAME) of record_file.py says where"
    for call in calls(tree, "parser.add_argument"):
        if ast.unparse(call.args[0]) == "'--record'":
            given = {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert "default" not in given, "a file of one's own is named by its user"
    for call in calls(tree, "add_record"):
        name = ast.literal_eval(call.args[1])
        known = [re.fullmatch(re.sub(r"{\w+}", "[a-z]+", name), p.stem) for p in RECORDS]
        assert any(known) or name == "gpu", f"no record is called {name}"
