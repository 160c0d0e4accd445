"""Two processes that stream one folder: each decodes its share, all hold the same network."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import steppe
from steppe.core.serialization import load_tensors

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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(file), str(tmp_path / "two")],
            env=os.environ
            | together
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=400)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), "\n".join(said)
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
