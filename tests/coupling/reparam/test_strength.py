"""The strength's rules, written out."""

import pytest
import torch

from steppe import SteppeError
from steppe.core.step_context import Epoch
from steppe.coupling.reparam.strength import Strength


def strength(**given):
    whole = {"alpha": 0.1, "decay": "constant", "rate": 0.95, "delta": 1.5, "l1_threshold": 100.0}
    return Strength(**(whole | given))


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("constant", [0.1, 0.1, 0.1]),
        ("harmonic", [0.1 / 2, 0.1 / 3, 0.1 / 4]),
        ("quadratic", [0.1 / 4, 0.1 / 9, 0.1 / 16]),
        ("geometric", [0.1 * 0.95, 0.1 * 0.95**2, 0.1 * 0.95**3]),
    ],
)
def test_curves(decay, expected):
    s = strength(decay=decay)
    assert [s.after(9.0, 0.0, Epoch(k, 3), never) for k in (1, 2, 3)] == pytest.approx(expected)


def never():
    raise AssertionError("||x||_1 does not decide here")


@pytest.mark.parametrize(
    ("before", "accuracy", "number", "length", "up"),
    [
        (0.5, 0.6, 1, 200.0, True),
        (0.5, 0.5, 5, 100.0, True),
        (0.5, 0.4, 1, 200.0, False),
        (0.5, 0.6, 6, 200.0, False),
        (0.5, 0.6, 1, 99.0, False),
    ],
)
def test_controller(before, accuracy, number, length, up):
    s = strength(decay="controlled")
    new_strength = s.after(0.2, before, Epoch(number, 10, accuracy), lambda: torch.tensor(length))
    assert new_strength == pytest.approx(0.2 * 1.5 if up else 0.2 / 1.5)


def test_what_it_watches():
    assert strength().watches == ""
    assert strength(decay="harmonic").watches == "epochs"
    assert strength(decay="controlled").watches == "accuracy"


@pytest.mark.parametrize("given", [{"rate": 0.0}, {"rate": 1.1}, {"delta": 0.9}, {"decay": "x"}])
def test_wrong_options(given):
    with pytest.raises(SteppeError):
        strength(**given)
