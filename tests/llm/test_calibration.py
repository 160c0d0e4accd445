"""The old name of the module of the calibration windows."""

import importlib
import sys

import pytest

from steppe.llm import calibration_windows


def test_the_old_name_still_works_and_says_the_new_one(monkeypatch):
    monkeypatch.delitem(sys.modules, "steppe.llm.calibration", raising=False)
    with pytest.warns(DeprecationWarning, match="calibration_windows"):
        old = importlib.import_module("steppe.llm.calibration")
    for name in old.__all__:
        assert getattr(old, name) is getattr(calibration_windows, name)
