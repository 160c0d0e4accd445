"""A recipe that trains for a moment."""

from __future__ import annotations

from pathlib import Path

import pytest

RECIPE = """
model: mlp
data: {name: digits, train_size: 100, test_size: 50}
method: {name: gmp, sparsity: 0.5}
train: {epochs: 2, batch_size: 50, lr: 0.1, checkpoint_steps: 1}
device: cpu
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The file of a recipe of images."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path
