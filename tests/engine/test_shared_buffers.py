"""Two processes train a network with batch norm: both hold one network, whoever wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import voc_folder
from steppe.core.serialization import load_tensors
from steppe.evaluation import make
from two_processes import together

WORKER = Path(__file__).with_name("buffers_worker.py")
TRAIN = {"epochs": 2, "batch_size": 4, "lr": 0.02, "checkpoint_steps": 1}
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")


def classifier(folder: Path, photographs: Path) -> dict[str, Any]:
    """Dense: its statistics are those of the training."""
    return {
        "model": {"name": "small-cnn", "options": {"channels": [4, 8, 8]}},
        "data": {"name": str(photographs), "size": 24, "stream": True, "workers": 0},
        "method": "dense",
        "train": TRAIN,
        "device": "cpu",
    }


def detector(folder: Path, photographs: Path) -> dict[str, Any]:
    """Pruned: its statistics are estimated anew at the end."""
    root = voc_folder.write(folder / "voc", train=8, test=5)
    return {
        "task": "detection",
        "model": {"name": "ssd_small", "options": {"width": 0.25}},
        "data": {"name": f"voc:{root}", "size": 64, "augment": "mirror"},
        "method": {"name": "gmp", "sparsity": 0.5},
        "train": TRAIN | {"bn_batches": 2},
        "device": "cpu",
    }


@pytest.mark.parametrize("made", [classifier, detector])
def test_both_hold_the_same_network(made: Any, photographs: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(made(tmp_path, photographs)))
    together(WORKER, file, tmp_path / "run")
    one, two = (torch.load(tmp_path / f"run-{rank}.pt") for rank in range(2))
    assert any("running_var" in name for name in one["end"])
    assert len(one["checkpoints"]) == len(two["checkpoints"]) > 3
    pairs = [*zip(one["checkpoints"], two["checkpoints"], strict=True), (one["end"], two["end"])]
    for ours, theirs in pairs:
        for name, tensor in ours.items():
            assert torch.equal(tensor, theirs[name]), name
    written = load_tensors(tmp_path / "run" / "model.safetensors")
    for name, tensor in one["end"].items():
        assert torch.equal(written[name], tensor), name
    # each measured its share of the images, of the network that is written
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    again = make("clean", str(tmp_path / "run"), {}, []).measure()
    assert again["loss"] == pytest.approx(record["sparse"]["loss"], rel=1e-5)
