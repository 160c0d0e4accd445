"""Two processes that stream one folder: each decodes its share, all hold the same network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import steppe
from steppe.core.serialization import load_tensors
from two_processes import together

WORKER = Path(__file__).with_name("streamed_worker.py")
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")


def test_two_processes_train_and_measure_as_one(photographs: Path, tmp_path: Path) -> None:
    recipe = {
        "model": {"name": "small-cnn", "options": {"channels": [4, 8, 8]}},
        "data": {
            "name": str(photographs),
            "size": 24,
            "resize": 28,
            "stream": True,
            "workers": 1,
            "augment": ["random_resized_crop", "flip", {"cutmix": {"alpha": 1.0}}],
        },
        "method": {"name": "gmp", "sparsity": 0.5},
        "train": {"epochs": 2, "batch_size": 8, "lr": 0.02, "bn_batches": 0},
        "device": "cpu",
    }
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe))
    together(WORKER, file, tmp_path / "two")
    record = json.loads((tmp_path / "two" / "record.json").read_text())
    alone = steppe.train(recipe, tmp_path / "one")
    assert record["sparsity_reached"] == alone["sparsity_reached"]
    ours = load_tensors(tmp_path / "one" / "model.safetensors")
    theirs = load_tensors(tmp_path / "two" / "model.safetensors")
    start = json.loads((tmp_path / "one" / "metrics.jsonl").read_text().splitlines()[0])
    other = json.loads((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()[0])
    assert start["train_loss"] != 0
    assert other["lr"] == start["lr"]
    # batch statistics are each process's own, so the networks are alike and not the same
    moved = [float((ours[n] - theirs[n]).norm() / ours[n].norm()) for n in ours if "conv" in n]
    assert max(moved, default=0.0) < 0.8
    measured = steppe.train(recipe, tmp_path / "two")
    assert measured["sparse"]["accuracy"] * 12 == pytest.approx(
        round(measured["sparse"]["accuracy"] * 12), abs=1e-9
    ), "each of the 12 test images is counted once"
    assert torch.tensor(measured["sparse"]["loss"]).isfinite()
