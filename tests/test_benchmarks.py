"""Scripts of benchmarks/: no record in git is overwritten unasked, and what they start ends."""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from pathlib import Path

import channel_study
import imagenet_recipes
import pytest
from imagenet_recipes import in_a_session, watched
from record_file import COMMITTED, PLAIN, add_record, record_of, write_record

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = [
    path
    for folder in ("", "llm")
    for path in sorted((BENCHMARKS / folder).glob("*.py"))
    if path.name != "record_file.py"
]
RECORDS = sorted(COMMITTED.glob("*.json"))
UNRECORDED = ("gpu", "batch-pages")
"""What no figure of the documentation comes from."""
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


def test_radii_that_are_searched_have_a_record_of_their_own(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(channel_study, "search", lambda out, path: said.append(path))
    for words in ([], ["--record"], ["--record", str(tmp_path / "own.json")]):
        monkeypatch.setattr(sys, "argv", ["channel_study.py", "--out", "x", "--search", *words])
        channel_study.main()
    name = "channel-search.json"
    assert said == [PLAIN / name, COMMITTED / name, tmp_path / "own.json"]


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
        assert any(known) or name in UNRECORDED, f"no record is called {name}"


class Rank:
    """A process that ends with a code after it was looked at so many times; None: never."""

    def __init__(self, looks, code=0):
        self.looks, self.code, self.left, self.gone = looks, code, looks, False

    @property
    def exitcode(self):
        return self.code if self.left == 0 else None

    def is_alive(self):
        self.left = self.left and self.left - 1
        return self.left != 0

    def kill(self):
        self.gone = True

    def join(self):
        assert self.gone


@pytest.mark.parametrize(
    ("ranks", "limit", "said"),
    [
        ([Rank(3), Rank(None)], 60, None),
        ([Rank(None), Rank(3, code=-9)], 60, "rank 1 with -9"),
        ([Rank(None), Rank(3, code=2)], 60, "rank 1 with 2"),
        ([Rank(None), Rank(None)], 0.0, "was not done after 0 s"),
    ],
    ids=["ended", "the second killed", "the second failed", "both hang"],
)
def test_a_run_that_is_watched_ends_and_nobody_of_it_is_left(ranks, limit, said):
    if said is None:
        watched(ranks, lambda: False, limit)
    else:
        with pytest.raises(RuntimeError, match=said):
            watched(ranks, lambda: False, limit)
    assert all(rank.gone for rank in ranks)


def test_a_run_is_killed_once_it_is_far_enough():
    ranks = [Rank(None), Rank(None)]
    watched(ranks, lambda: True, 60)
    assert all(rank.gone for rank in ranks)


def test_processes_of_torchrun_end_in_time(tmp_path):
    with pytest.raises(RuntimeError, match=r"was not done after 0\.1 s"):
        in_a_session(["-m", "http.server", "0", "--bind", "127.0.0.1"], tmp_path / "log", 0.1)
    with pytest.raises(RuntimeError, match=r"failed \(3\)"):
        in_a_session(["-c", "raise SystemExit(3)"], tmp_path / "log", 600)
    in_a_session(["-c", "print('done')"], tmp_path / "log", 600)
    assert (tmp_path / "log").read_text() == "done\n"


def test_a_library_that_is_missing_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(sys, "argv", ["imagenet_recipes.py", str(tmp_path), "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"pip install 'steppe\[hub\]'"):
        imagenet_recipes.main()
