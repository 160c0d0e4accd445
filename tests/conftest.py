"""What every test starts from: no network, one seed, no leftovers of another test."""

import os

# before any import of the hub's packages: a test never waits for a network
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    """Each test draws the same numbers, whatever ran before it."""
    torch.manual_seed(0)
