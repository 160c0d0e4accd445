"""Two processes that average their gradients beside one that sees the joined batch."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from steppe.core.serialization import load_state

WORKER = Path(__file__).with_name("ddp_worker.py")
SPEC = importlib.util.spec_from_file_location("ddp_worker", WORKER)
worker = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(worker)

GLOBAL = [case for case, (_, sync, _) in worker.CASES.items() if sync == "global"]
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks ended with, for every case."""
    folder = tmp_path_factory.mktemp("ddp")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), "2", str(folder)],
            env=environment,
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


def gap(a, b):
    return max(float((a["before"][n] - b["before"][n]).abs().max()) for n in a["before"])


@pytest.mark.parametrize("case", worker.CASES)
def test_both_ranks_hold_the_same_network(ranks, case):
    first, second = (rank[case] for rank in ranks)
    for name, w in first["before"].items():
        assert torch.equal(w, second["before"][name]), name
        assert w.isfinite().all()
    for name, mask in first["masks"].items():
        assert torch.equal(mask, second["masks"][name]), name
    assert (
        first["zeros"]
        == second["zeros"]
        == round(0.6 * sum(m.numel() for m in first["masks"].values()))
    )


@pytest.mark.parametrize("case", GLOBAL)
def test_as_one_process_on_the_joined_batch(ranks, case):
    alone = worker.run(case)
    assert gap(ranks[0][case], alone) < 1e-5
    start = {n: p.detach() for n, p in worker.network().named_parameters()}
    assert gap({"before": start}, alone) > 0.05, "the run did nothing"


@pytest.mark.parametrize("case", ["safe", "safe_plus-fisher", "functional_sam"])
def test_local_perturbations_differ(ranks, case):
    local = {"safe_plus-fisher": "safe_plus-local"}.get(case, f"{case}-local")
    assert 1e-5 < gap(ranks[0][case], ranks[0][local]) < 0.5


@pytest.mark.parametrize("case", ["admm-local", "msam-local"])
def test_local_with_one_gradient_a_step_still_shares_it(ranks, case):
    assert gap(ranks[0][case], worker.run(case)) < 1e-5


def test_a_rank_that_overflows_alone_makes_all_skip(ranks):
    assert [rank["safe-local-overflow"]["scale"] for rank in ranks] == [2.0**7, 2.0**7]
