"""Small networks for the tests of removal."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

NAME = "steppe_tests_networks"


@pytest.fixture(scope="session")
def networks() -> ModuleType:
    """The module `networks.py` beside this file."""
    if NAME not in sys.modules:
        path = Path(__file__).with_name("networks.py")
        spec = importlib.util.spec_from_file_location(NAME, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[NAME] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[NAME])
    return sys.modules[NAME]
