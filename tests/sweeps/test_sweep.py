"""A sweep: killed and started again, grown, with runs that fail, on a stranger's backend."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nursery import KILLED, Nursery
from steppe import SteppeError
from steppe.experiment.read import read_plain
from steppe.sweeps.backends import BACKENDS, Resources
from steppe.sweeps.grid import Variation
from steppe.sweeps.job import Job, Outcome
from steppe.sweeps.sweep import Sweep

LR = Variation("train.lr", (0.05, 0.1))


def bits(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("m*s.safetensors")} | {
        str(p.relative_to(out)): p.read_bytes() for p in out.rglob("model.safetensors")
    }


def sweep(recipe: Path, out: Path, *varied: Variation) -> Sweep:
    return Sweep(read_plain(recipe)[0], varied or [LR], out)


def test_killed_anywhere_and_started_again_it_ends_with_the_same_bits(
    recipe: Path, tmp_path: Path
) -> None:
    arguments = ["sweep", str(recipe), "--vary", "train.lr=0.05,0.1", "--quiet", "--out"]
    with Nursery("steppe.experiment.experiment", "steppe.sweeps.sweep") as nursery:
        whole = nursery.run([*arguments, str(tmp_path / "whole")], tmp_path / "whole")
        assert whole["code"] == 0, whole["said"]
        for at in (3, whole["operations"] * 2 // 3):
            out = tmp_path / str(at)
            killed = nursery.run([*arguments, str(out)], out, kill=at)
            assert killed["code"] == KILLED, killed["said"]
            again = nursery.run([*arguments, str(out)], out)
            assert again["code"] == 0, again["said"]
            assert again["operations"] < whole["operations"] or at == 3, "something was done"
            assert len(bits(out)) == 4
            assert bits(out) == bits(tmp_path / "whole")


def test_a_run_that_fails_stops_no_other_and_is_tried_again(recipe: Path, tmp_path: Path) -> None:
    made = sweep(recipe, tmp_path / "out", Variation("train.lr", (1e20, 0.1)))
    made.run()
    assert [run.state for run in made.runs] == ["failed", "done"]
    assert "must stay finite" in made.failed[0].reason
    assert "\n" not in made.failed[0].reason
    assert made.best is not None
    assert made.best.values == {"train.lr": 0.1}
    stored = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [run["state"] for run in stored["runs"]] == ["failed", "done"]
    again = sweep(recipe, tmp_path / "out", Variation("train.lr", (1e20, 0.1)))
    seen: list[str] = []
    again.run(ended=lambda run, left: seen.append(run.name))
    assert seen == ["lr=1e+20"]


def test_values_and_seeds_may_be_added_and_what_is_done_stays(recipe: Path, tmp_path: Path) -> None:
    sweep(recipe, tmp_path / "out").run()
    more = sweep(recipe, tmp_path / "out", Variation("train.lr", (0.05, 0.1, 0.2)))
    seen: list[str] = []
    more.run(ended=lambda run, left: seen.append(run.name))
    assert seen == ["lr=0.2"]
    assert [run.state for run in more.runs] == ["done"] * 3


def test_another_sweep_or_something_else_in_the_folder_is_refused(
    recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    sweep(recipe, out).run()
    before = (out / "sweep.json").read_bytes()
    others = {
        "train.lr without 0.05": sweep(recipe, out, Variation("train.lr", (0.1,))),
        "train.batch_size, train.lr": sweep(recipe, out, Variation("train.batch_size", (50,))),
        "recipe.train.epochs": Sweep(
            read_plain(recipe)[0] | {"train": {"epochs": 3, "batch_size": 50}}, [LR], out
        ),
    }
    for words, other in others.items():
        with pytest.raises(SteppeError, match=words):
            other.run()
    assert (out / "sweep.json").read_bytes() == before
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "notes.txt").touch()
    with pytest.raises(SteppeError, match="earlier sweep's folder"):
        sweep(recipe, tmp_path / "else").run()


@pytest.mark.parametrize(
    ("words", "variation"),
    [
        ("did you mean train", Variation("tran.lr", (0.1,))),
        ("did you mean lr_schedule", Variation("train.lr_schedul", ("cosine",))),
        ("train.momentum right; got 'fast'", Variation("train.momentum", ("fast",))),
        ("unknown option of method gmp", Variation("method.sparsety", (0.1,))),
        ("sparsity of method gmp is of type", Variation("method.sparsity", ("much",))),
    ],
)
def test_what_the_recipe_does_not_have_is_refused_before_anything_runs(
    recipe: Path, tmp_path: Path, words: str, variation: Variation
) -> None:
    with pytest.raises(SteppeError, match=words):
        sweep(recipe, tmp_path / "out", LR, variation)
    assert not (tmp_path / "out").exists()


def test_a_stranger_adds_a_backend(recipe: Path, tmp_path: Path) -> None:
    class Backwards:
        """The last job first; the first one's worker dies."""

        name = "backwards"

        @classmethod
        def check(cls, resources: Resources) -> None:
            assert resources.workers == 3

        @classmethod
        def run(cls, jobs: Sequence[Job], resources: Resources) -> Iterator[Outcome]:
            for job in reversed(jobs[1:]):
                yield job.run()
            yield Outcome(name=jobs[0].name, reason="it died")

    BACKENDS.register("backwards")(Backwards)
    try:
        made = sweep(recipe, tmp_path / "out")
        made.run("backwards", Resources(workers=3))
    finally:
        BACKENDS.forget("backwards")
    assert {run.name: run.state for run in made.runs} == {"lr=0.05": "failed", "lr=0.1": "done"}
    assert made.failed[0].reason == "it died"


def test_an_unknown_backend_and_resources_that_it_does_not_know(
    recipe: Path, tmp_path: Path
) -> None:
    made: Any = sweep(recipe, tmp_path / "out")
    with pytest.raises(SteppeError, match="did you mean ray"):
        made.run("rai")
    with pytest.raises(SteppeError, match=r"got --workers 2.*--on ray"):
        made.run("here", Resources(workers=2))
    with pytest.raises(SteppeError, match="got --workers 0"):
        Resources(workers=0)
    assert not (tmp_path / "out").exists()
