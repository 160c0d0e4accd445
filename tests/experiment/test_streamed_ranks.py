"""Two processes that stream one folder: together they see what one sees, and train as it does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import steppe
import two_processes
from seen_batches import seen
from steppe.core.serialization import load_tensors

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")


def test_two_processes_train_and_measure_as_one(photographs: Path, tmp_path: Path) -> None:
    recipe = {
        "model": {"name": "normless_classifier:build"},
        "data": {
            "name": str(photographs),
            "size": 24,
            "resize": 28,
            "stream": True,
            "workers": 1,
            "augment": ["random_resized_crop", "flip", {"cutmix": {"alpha": 1.0}}],
        },
        "method": {"name": "gmp", "sparsity": 0.5},
        "train": {"epochs": 2, "batch_size": 8, "lr": 0.02},
        "device": "cpu",
    }
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe))
    two_processes.run(two_processes.TESTS / "training_worker.py", file, tmp_path / "two")
    with seen() as whole:
        alone = steppe.train(recipe, tmp_path / "one")
    assert sorted(whole) == [(epoch, batch) for epoch in range(2) for batch in range(5)]
    for rank in range(two_processes.WORLD):
        share = torch.load(tmp_path / f"two-seen-{rank}.pt")
        assert share.keys() == whole.keys()
        for where, (x, y) in whole.items():
            assert len(x) == 8
            assert torch.equal(share[where][0], x[rank::2]), where
            assert torch.equal(share[where][1], y[rank::2]), where
    ours = load_tensors(tmp_path / "one" / "model.safetensors")
    theirs = load_tensors(tmp_path / "two" / "model.safetensors")
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-5)
    record = json.loads((tmp_path / "two" / "record.json").read_text())
    assert record["sparsity_reached"] == alone["sparsity_reached"]
    assert record["sparse"]["accuracy"] == alone["sparse"]["accuracy"]
    assert record["sparse"]["loss"] == pytest.approx(alone["sparse"]["loss"], rel=1e-4)
