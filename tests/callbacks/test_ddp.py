"""Two processes in transformers' Trainer and in Lightning."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("lightning.pytorch")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("ddp")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    worker = Path(__file__).with_name("ddp_worker.py")
    command = [*torchrun, "--nproc-per-node", "2", str(worker), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"rank{i}.json").read_text()) for i in range(2)]


@pytest.mark.parametrize("library", ["trainer", "lightning"])
def test_dense_is_the_library_itself(ranks: list[dict[str, Any]], library: str) -> None:
    assert ranks[0][f"{library} dense"]["weights"] == ranks[0][f"{library} plain"]["weights"]


@pytest.mark.parametrize("library", ["trainer", "lightning"])
def test_both_hold_the_same_sparse_network(ranks: list[dict[str, Any]], library: str) -> None:
    first, second = (rank[f"{library} safe"] for rank in ranks)
    assert first == second
    assert first["zeros"] == 36  # half of 6 * 8 + 8 * 3
    assert first["weights"] != ranks[0][f"{library} plain"]["weights"]
