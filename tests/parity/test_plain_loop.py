"""With dense() and no perturbation a run is the plain loop, bit for bit."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import steppe

WORKER = Path(__file__).with_name("plain_loop.py")
SPEC = importlib.util.spec_from_file_location("plain_loop", WORKER)
loops = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(loops)

CASES = [(n, s) for n in [*loops.OPTIMIZERS, loops.PAIR] for s in loops.SCENARIOS]
# torch clips no sparse gradients
CLIPS = [(n, s) for n, s in CASES if (n, s) not in {("SparseAdam", "clipped")}]


def test_all_optimizers_of_torch_take_part():
    assert {"SGD", "Adam", "AdamW", "Rprop", "ASGD", "SparseAdam"} < set(loops.OPTIMIZERS)


@pytest.mark.parametrize(("name", "scenario"), CLIPS)
def test_dense_is_the_plain_loop(name, scenario):
    assert not loops.differences(name, scenario)


def test_the_comparison_sees_a_difference():
    plain, _ = loops.run("SGD", "frozen", False)
    flat, _ = loops.run("SGD", "frozen", True, method=steppe.methods.dense(rho=0.1))
    assert not torch.equal(plain.a.weight, flat.a.weight)
    assert torch.equal(plain.trunk.weight, flat.trunk.weight)


@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")
def test_on_two_processes_too(tmp_path):
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(tmp_path)],
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
    for rank in range(2):
        seen = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert seen.pop("traces of a second pass") == []
        assert set(seen) == {f"{n}/{s}" for n, s in CASES if loops.in_company(n, s)}
        assert not {case: wrong for case, wrong in seen.items() if wrong}
