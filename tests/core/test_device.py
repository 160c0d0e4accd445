"""A device that is there, or one line."""

from __future__ import annotations

import pytest
import torch

from steppe.core.device import device_of
from steppe.core.errors import SteppeError


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:99", "cpu:x"])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(SteppeError, match=f"must exist here; got '{name}'"):
        device_of(name)


def test_the_cpu_is_there() -> None:
    assert device_of("cpu") == torch.device("cpu")
