"""steppe plan, as a user sees it: the options of steppe prune, and nothing written."""

import json

import pytest

from steppe.cli.main import main
from steppe.llm import memory


def run(*arguments, code=0):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


@pytest.fixture
def asked(language_model, word_text, tmp_path):
    flags = ["--method", "sparsegpt", "--sparsity", "0.5", "--calibration", word_text]
    flags += ["--samples", 4, "--window", 16, "--out", tmp_path / "out", "--device", "cpu"]
    return [language_model, *flags]


def options(verb, capsys):
    run(verb, "--help")
    shown = capsys.readouterr().out
    return shown[shown.index("{model}") :].split("\n", 1)[1]


def test_both_verbs_take_the_same_options(capsys):
    plan, prune = (options(verb, capsys) for verb in ("plan", "prune"))
    assert plan.split("Arguments:")[1] == prune.split("Arguments:")[1]
    assert "--micro-batch" in plan


def test_a_plan_is_said_and_emitted(asked, tmp_path, capsys):
    run("plan", *asked, "--json")
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert found["zeros"] * 2 == found["weights"]
    assert found["seconds"]["all"] > 0
    assert {"memory_bytes", "disk_bytes", "available_bytes", "zeros_by_kind"} <= set(found)
    assert "will be zero" in shown.err
    assert "memory: " in shown.err
    assert "time of the work: " in shown.err
    assert list(tmp_path.iterdir()) == []
    run("plan", *asked, "--quiet")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("verb", ["plan", "prune"])
@pytest.mark.parametrize(
    ("which", "words"),
    [("host", ["fit in memory", "--micro-batch"]), ("disk", ["the disk", "--out on another disk"])],
)
def test_what_cannot_fit_is_one_line_and_exit_2(
    verb, which, words, asked, tmp_path, capsys, monkeypatch
):
    there = {"host": 10**15, "disk": 10**15} | {which: 1000}
    monkeypatch.setattr(memory, "available", lambda out, device: there)
    run(verb, *asked, code=2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(word in said for word in [*words, "needed", "available"])
    assert list(tmp_path.iterdir()) == []
