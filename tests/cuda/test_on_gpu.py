"""What must hold on a GPU: steps, autocast, one process under DDP, blockwise pruning, copies."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import steppe

DEVICE = "cuda"
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
STEPS = 8
METHODS = {
    "gmp": steppe.methods.gmp(sparsity=0.6, every=2),
    "admm": steppe.methods.admm(sparsity=0.6, interval=2, penalty=0.1),
    "safe": steppe.methods.safe(sparsity=0.6, interval=2, penalty=0.1),
    "2:4": steppe.methods.safe(sparsity=0.5, structure="2:4", interval=2, penalty=0.1),
}


def network(device: str) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))
    return made.to(device)


def trained(
    device: str,
    method: steppe.Method,
    model: nn.Module | None = None,
    dtype: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[nn.Module, steppe.Sparsifier]:
    """A small network after some steps; the same numbers on every device."""
    model = network(device) if model is None else model
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(64, 32, generator=draw).to(device)
    y = torch.randint(0, 4, (64,), generator=draw).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sparsifier = steppe.sparsify(model, optimizer, method, STEPS, scaler=scaler)

    def closure() -> torch.Tensor:
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            return F.cross_entropy(model(x), y)

    for _ in range(STEPS):
        sparsifier.step(closure)
    return model, sparsifier


@pytest.mark.parametrize("name", METHODS)
def test_steps_are_those_of_a_processor(name: str) -> None:
    models = {}
    for device in ("cpu", DEVICE):
        models[device], sparsifier = trained(device, METHODS[name])
        result = sparsifier.finish()
        assert abs(result.zeros / result.total - METHODS[name].sparsity) < 0.02
    here, there = (
        {n: p.cpu() for n, p in model.named_parameters() if p.ndim == 2}
        for model in models.values()
    )
    for weight in here:
        # a threshold that falls between two weights which rounding swaps costs a weight or two
        differs = (here[weight] - there[weight]).abs() > 1e-3
        assert differs.float().mean() <= 0.05, weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_a_scaler_leave_finite_sparse_weights(dtype: torch.dtype) -> None:
    scaler = torch.amp.GradScaler(DEVICE) if dtype == torch.float16 else None
    model, sparsifier = trained(DEVICE, METHODS["safe"], dtype=dtype, scaler=scaler)
    result = sparsifier.finish()
    assert result.zeros / result.total > 0.58
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in model.parameters())


def test_one_process_under_ddp_is_one_process_alone(tmp_path: Path) -> None:
    alone, sparsifier = trained(DEVICE, METHODS["safe"])
    sparsifier.finish()
    meeting = f"file://{tmp_path / 'meeting'}"
    backend = "nccl" if DEVICE == "cuda" and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, init_method=meeting, rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(network(DEVICE))
        _, sparsifier = trained(DEVICE, METHODS["safe"], wrapped)
        sparsifier.finish()
    finally:
        dist.destroy_process_group()
    for one, other in zip(alone.parameters(), wrapped.module.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_state_goes_on_from_a_gpu() -> None:
    model, sparsifier = trained(DEVICE, METHODS["safe"])
    state = copy.deepcopy(sparsifier.state_dict())
    other = network(DEVICE)
    other.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(other.parameters(), lr=0.05, momentum=0.9)
    again = steppe.sparsify(other, optimizer, METHODS["safe"], STEPS)
    again.load_state_dict(state)
    assert again.finish().zeros == sparsifier.finish().zeros


@pytest.mark.parametrize("method", ["sparsegpt", "wanda", "safe"])
def test_a_language_model_is_pruned_block_by_block(
    method: str, language_model: Path, tmp_path: Path
) -> None:
    windows = torch.randint(0, 26, (8, 32))
    perplexities = []
    for device in ("cpu", DEVICE):
        record = steppe.prune(
            language_model,
            steppe.methods.make(method, sparsity=0.5),
            windows,
            tmp_path / device,
            device=device,
            **({"reconstruction": {"epochs": 2}} if method == "safe" else {}),
        )
        assert abs(record["sparsity_reached"] - 0.5) < 0.02
        model = steppe.load(tmp_path / device).eval()
        with torch.no_grad():
            perplexities.append(float(model(windows, labels=windows).loss))
    assert abs(perplexities[0] - perplexities[1]) < 0.2


def test_a_packed_language_model_gives_the_logits_of_the_dense_one(
    language_model: Path, tmp_path: Path
) -> None:
    pruned = tmp_path / "pruned"
    windows = torch.randint(0, 26, (8, 32))
    magnitude = steppe.methods.make("magnitude", sparsity=0.6)
    steppe.prune(language_model, magnitude, windows, pruned, device=DEVICE)
    tokens = windows[:1].to(DEVICE)
    logits = []
    for sparse in ("dense", "bits", "index", "csr"):
        model = steppe.load(pruned, sparse=sparse, device=DEVICE, dtype="float32")
        with torch.no_grad():
            logits += [torch.cat([model(tokens).logits, model(tokens[:, :3]).logits], dim=1)]
    for each in logits[1:]:
        torch.testing.assert_close(each, logits[0], rtol=1e-3, atol=1e-3)


def test_steppe_train_runs_on_a_gpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "steppe", "train", "--data", "digits", "--method", "gmp"]
    command += ["--sparsity", "0.9"]
    command += ["--epochs", "1", "--device", DEVICE, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "record.json").is_file()
