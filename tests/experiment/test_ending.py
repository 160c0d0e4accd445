"""A fault in what is computed after a run never costs the run."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import steppe
from steppe.core.courtesy import NOT_COMPUTED
from steppe.experiment.ending import Ending, guessing_notes
from steppe.report.html import write_report
from steppe.report.record import read_records

SMALL = {
    "model": "small-cnn",
    "data": {
        "name": "digits",
        "train_size": 96,
        "test_size": 32,
        "label_noise": {"rate": 0.2},
    },
    "method": {"name": "gmp", "sparsity": 0.5, "structure": "channel", "score": "l2"},
    "train": {"epochs": 1, "batch_size": 32, "bn_batches": 1},
    "device": "cpu",
}
STEPS = {
    "the sizes": "_sizes",
    "the latencies": "_latencies",
    "what removal gains": "_removed",
    "what wrong labels did": "_believed",
    "the notes": "_notes",
    "the gain": "_gain",
}


def broken(*_, **__):
    raise ZeroDivisionError("float division by zero")


def test_these_are_all_of_them():
    ending = (*Ending.all.__code__.co_names, *Ending.of_data.__code__.co_names)
    assert {n for n in ending if n.startswith("_")} == set(STEPS.values())


@pytest.mark.parametrize("step", STEPS)
def test_the_run_is_whole_and_its_end_is_done_again(step, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Ending, STEPS[step], broken)
        record = steppe.train(SMALL, out=out)
    said = capsys.readouterr().err.strip().splitlines()
    assert said
    assert said[0].startswith(f"steppe: {step}: not computed, an internal error (ZeroDivisionError")
    assert step in record[NOT_COMPUTED]
    assert record == json.loads((out / "record.json").read_text())
    weights = load_file(out / "model.safetensors")
    assert (out / "masks.safetensors").exists()
    write_report(tmp_path / "report.html", title="t", records=read_records([out]))
    # with the fault mended the same command ends it, and trains nothing again
    again = steppe.train(SMALL, out=out)
    assert NOT_COMPUTED not in again
    assert any("resumed after step 3 of 3" in note for note in again["notes"])
    assert again["metrics"] == record["metrics"]
    for name, tensor in load_file(out / "model.safetensors").items():
        assert torch.equal(tensor, weights[name]), name


def test_an_evaluation_that_fails_costs_no_epoch_and_no_run(tmp_path, monkeypatch, capsys):
    import steppe.experiment.experiment as experiment

    recipe = SMALL | {"method": {"name": "gmp", "sparsity": 0.5}}
    recipe = recipe | {"train": SMALL["train"] | {"epochs": 2}}
    right = steppe.train(recipe, out=tmp_path / "right")
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "clean", broken)
        record = steppe.train(recipe, out=tmp_path / "run")
    said = capsys.readouterr().err
    for what in ("after epoch 1", "before the last projection", "the accuracy: not computed"):
        assert what in said
    assert "the accuracy" in record[NOT_COMPUTED]
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("right", "run"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    again = steppe.train(recipe, out=tmp_path / "run")
    assert again["sparse"]["accuracy"] == right["sparse"]["accuracy"]


def test_a_run_that_diverged_without_nan_says_so(tmp_path):
    """Many times the loss of guessing is no success, whatever the exit code."""
    recipe = SMALL | {"method": {"name": "safe", "sparsity": 0.5, "rho": 0.0, "penalty": 1e-3}}
    recipe["train"] = SMALL["train"] | {"epochs": 2, "lr": 1e4}
    (said,) = steppe.train(recipe, out=tmp_path / "run")["doubts"]
    assert "the training diverged" in said
    assert "a smaller learning rate, or penalty auto, in another folder" in said
    recipe["train"] = recipe["train"] | {"lr": 1e-9}
    (said,) = steppe.train(recipe, out=tmp_path / "slow")["doubts"]
    assert "the run has failed; try a lower sparsity, a smaller learning rate, or penalty" in said
    assert "rho" not in said


@pytest.mark.parametrize(
    ("classes", "accuracy", "failed"),
    [
        (2, 0.51, True),
        (2, 0.6, False),
        (3, 0.34, True),
        (3, 0.5, False),
        (10, 0.14, True),
        (10, 0.16, False),
        (1000, 0.0014, True),
        (1000, 0.002, False),
    ],
)
def test_guessing_is_said_of_networks_that_guess(classes, accuracy, failed):
    outcome = SimpleNamespace(after={"accuracy": accuracy})
    notes = guessing_notes(outcome, steppe.methods.METHODS["gmp"].example(), classes)
    assert bool(notes) == failed
    assert all(f"guessing among {classes} classes ({1 / classes:.1%})" in note for note in notes)
