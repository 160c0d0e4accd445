"""Flags of other tasks: the refusal names what says the same."""

from __future__ import annotations

import re

import pytest

from steppe.cli.main import main
from steppe.cli.training import TRAININGS, no_flag
from steppe.experiment.strict import places

FOREIGN = [
    (task, name)
    for task in TRAININGS
    for name in sorted({n for other in TRAININGS for n in TRAININGS[other].flags})
    if name not in TRAININGS[task].flags
]


@pytest.mark.parametrize(("task", "name"), FOREIGN)
def test_a_flag_of_another_task_is_refused_with_what_this_one_has(task: str, name: str) -> None:
    way_out = no_flag(task, name, 3).way_out
    known = set(places(TRAININGS[task].schema))
    said = re.findall(r"--set ([a-z_.]+)=3", way_out)
    wanted = {TRAININGS[t].flags[name].place for t in TRAININGS if name in TRAININGS[t].flags}
    assert set(said) == wanted & known
    own = {f"--{flag.replace('_', '-')}" for flag in TRAININGS[task].flags}
    assert said or own <= set(re.findall(r"--[a-z-]+", way_out))


@pytest.mark.parametrize("flag", ["size", "workers"])
def test_the_way_out_of_images_works(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "digits", f"--{flag}", "3"])
    refused = capsys.readouterr().err
    assert f"Way out: --set data.{flag}=3" in refused
    with pytest.raises(SystemExit):
        main(["train", "digits", "--set", f"data.{flag}=3", "--method", "none-such"])
    assert "none-such" in capsys.readouterr().err


def test_a_warm_up_longer_than_the_run_names_what_sets_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["train", "detection/bccd", "--data", "voc:nowhere", "--epochs", "2"]
    with pytest.raises(SystemExit):
        main(words)
    assert "Way out: --set train.warmup_epochs=0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--set", "train.warmup_epochs=0"])
    assert "nowhere" in capsys.readouterr().err
