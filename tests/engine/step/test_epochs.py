"""Epochs end where the clock says, with the mean accuracy of their micro-batches."""

import pytest
import torch

import steppe
from steppe import SteppeError
from steppe.core.step_context import Epoch
from steppe.engine.step.epochs import Epochs

PILOT = steppe.methods.pilot(0.5)
HARMONIC = steppe.methods.pilot(0.5, decay="harmonic")
GMP = steppe.methods.gmp(0.5)


def test_the_mean_of_an_epoch():
    epochs = Epochs(2, 8, PILOT)
    for value in (0.2, 0.4):
        epochs.see(torch.tensor(value))
    assert epochs.end((1, 6)) is None
    for value in (0.6, 0.8):
        epochs.see(torch.tensor(value))
    found = epochs.end((2, 6))
    assert (found.number, found.of) == (1, 3)
    assert found.accuracy == pytest.approx(0.5)
    epochs.see(torch.tensor(1.0))
    assert epochs.end((4, 6)).accuracy == 1.0


def test_epochs_without_accuracy():
    epochs = Epochs(3, 9, HARMONIC)
    epochs.see(None)
    assert [epochs.end((k, 6)) for k in range(1, 7)] == [
        None,
        None,
        Epoch(1, 2),
        None,
        None,
        Epoch(2, 2),
    ]


def test_nobody_watches():
    epochs = Epochs(None, 9, GMP)
    epochs.see(None)
    assert epochs.end((5, 5)) is None


def test_what_is_missing_is_said():
    with pytest.raises(SteppeError, match="steps_per_epoch"):
        Epochs(None, 9, HARMONIC)
    with pytest.raises(SteppeError, match="loss alone"):
        Epochs(1, 9, PILOT).see(None)


@pytest.mark.parametrize("steps", [2.5, -1, 0])
def test_steps_are_a_whole_number(steps):
    with pytest.raises(SteppeError, match="steps_per_epoch"):
        Epochs(steps, 9, HARMONIC)
    Epochs(steps, 9, GMP)


def test_a_training_that_ends_no_epoch_is_noted():
    assert "ends none of 10" in Epochs(10, 9, HARMONIC).notes[0]
    assert not Epochs(9, 9, HARMONIC).notes
    # three trainings of three
    assert Epochs(4, 9, steppe.methods.pilot(0.5, cycles=3)).notes
    assert not Epochs(10, 9, GMP).notes
