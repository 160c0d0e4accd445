"""The old name of the module of the calibration error."""

from __future__ import annotations

import importlib
import sys

import pytest

from steppe.robustness import calibration_error


def test_the_old_name_still_works_and_says_the_new_one(monkeypatch):
    monkeypatch.delitem(sys.modules, "steppe.robustness.calibration", raising=False)
    with pytest.warns(DeprecationWarning, match="calibration_error"):
        old = importlib.import_module("steppe.robustness.calibration")
    for name in old.__all__:
        assert getattr(old, name) is getattr(calibration_error, name)
