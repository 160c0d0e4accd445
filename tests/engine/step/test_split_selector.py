"""Weights split over two processes (FSDP2) give what one process gives; killed, the same bits."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from steppe.core.serialization import load_state

WORKER = Path(__file__).with_name("split_worker.py")
SPEC = importlib.util.spec_from_file_location("split_worker", WORKER)
worker = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(worker)
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks ended with, for every case."""
    folder = tmp_path_factory.mktemp("split")
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), "2", str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert all(process.returncode == 0 for process in started), "\n".join(errors)
    return [load_state(folder / f"rank{rank}") for rank in range(2)]


@pytest.mark.parametrize("case", worker.CASES)
def test_as_one_process_on_the_joined_batch(ranks, case):
    alone = worker.run(case)["whole"]
    for rank in ranks:
        split = rank[case]["whole"]
        assert split["masks"].keys() == alone["masks"].keys()
        for name, mask in alone["masks"].items():
            assert torch.equal(mask, split["masks"][name]), name
        for when in ("before", "after"):
            for name, w in alone[when].items():
                torch.testing.assert_close(split[when][name], w, atol=1e-5, rtol=1e-4)
        assert split["numbers"] == pytest.approx(alone["numbers"], rel=1e-4)
    start = worker.network().state_dict()
    moved = max(float((start[n] - alone["before"][n]).abs().max()) for n in start)
    assert moved > 0.05, "the run did something"


@pytest.mark.parametrize("case", worker.CASES)
def test_from_its_state_it_ends_with_the_same_bits(ranks, case):
    for rank in ranks:
        for when in ("before", "after", "masks"):
            for name, tensor in rank[case]["whole"][when].items():
                assert torch.equal(tensor, rank[case]["resumed"][when][name]), (when, name)
