"""steppe methods, as a user sees it."""

from __future__ import annotations

import json

import pytest

from steppe import methods
from steppe.cli.job import build
from steppe.cli.main import app, main


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


def test_the_list_names_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    run("methods")
    shown = capsys.readouterr().out
    assert all(name in shown for name in methods.METHODS)


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_a_method_is_shown_as_its_seven_parts(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("methods", name, "--json")
    shown = json.loads(capsys.readouterr().out)
    axes = {"score", "structure", "budget", "schedule", "coupling", "perturb", "objective"}
    assert axes <= set(shown)
    run("methods", name)
    assert name in capsys.readouterr().out


def test_the_verbs_are_registered_once_however_often_they_are_called() -> None:
    run("methods")
    run("methods")
    names = [verb.name for verb in app.registered_commands]
    assert len(names) == len(set(names)) > 5


def test_a_part_is_shown_with_how_to_take_it(capsys: pytest.CaptureFixture[str]) -> None:
    run("methods", "msam")
    assert "steppe train RECIPE --set method.perturb=msam" in capsys.readouterr().out
    run("methods", "nm")
    assert "--set 'method.structure={name: nm, n: N, m: M}'" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["layer_admm", "obs_update", "obs", "block_reconstruction"])
def test_the_command_for_a_part_of_language_models_is_one_that_takes_it(
    part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("methods", part)
    *_, verb, _, _, name, _, sparsity, _, change = capsys.readouterr().out.split()
    assert verb == "prune"
    made = build(name, {}, [change], {"sparsity": float(sparsity)})
    assert part in {p.name for p in made.parts.values()}


def test_an_unknown_method_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    run("methods", "sefa", code=2)
    assert "did you mean" in capsys.readouterr().err
