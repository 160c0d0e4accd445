"""Two processes train a detector and measure it as one does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import steppe
import two_processes
import voc_folder
from steppe.core.serialization import load_tensors
from steppe.evaluation import make

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")


def test_two_processes_train_and_measure_as_one(tmp_path: Path) -> None:
    root = voc_folder.write(tmp_path / "voc", train=8, test=5)
    recipe = {
        "task": "detection",
        "model": {"name": "normless_detector:build"},
        # crops leave some images without an object, so that the processes have unequal counts
        "data": {"name": f"voc:{root}", "size": 96, "augment": [{"crop": {"least": 0.2}}]},
        "method": {"name": "gmp", "sparsity": 0.5},
        "train": {"epochs": 6, "batch_size": 4, "lr": 0.05, "eval_every": 3},
        "device": "cpu",
    }
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe))
    two_processes.run(two_processes.TESTS / "training_worker.py", file, tmp_path / "two")
    record = json.loads((tmp_path / "two" / "record.json").read_text())
    steppe.train(recipe, tmp_path / "one")
    ours = load_tensors(tmp_path / "one" / "model.safetensors")
    theirs = load_tensors(tmp_path / "two" / "model.safetensors")
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-4)
    # the images are measured once each, whoever looked at them
    again = make("clean", str(tmp_path / "two"), {}, []).measure()
    for key in ("map", "map50", "map50_11", "classes"):
        assert again[key] == record["sparse"][key], key
    assert again["loss"] == pytest.approx(record["sparse"]["loss"], rel=1e-6)
    assert record["sparse"]["map50"] > 0
