"""The kernels of Triton, interpreted on the processor beside float64, and compiled for GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from steppe.sparse.format import FORMATS
from steppe.sparse.layouts import BITS
from steppe.sparse.triton.bits import CHUNKS, MOST_TOKENS, kernels, padded_tokens, works_on

WORKER = Path(__file__).with_name("interpreted.py")
TARGETS = (80, 90)


def in_process(tmp_path_factory, *words, **environment):
    """What the worker prints, in a process of its own: triton decides when it is imported."""
    pytest.importorskip("triton", reason="triton is not installed")
    own = {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER), *words]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | own | environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """What was wrong in each family of cases, and how many there were."""
    return in_process(tmp_path_factory, "interpret", TRITON_INTERPRET="1")


@pytest.mark.parametrize(
    "family", ["shapes", "dtypes", "tokens", "numbers", "unpacked", "int8", "tilings"]
)
def test_the_programs_give_what_a_dense_matrix_gives(interpreted, family):
    cases = interpreted[family]
    assert cases["count"] > 3
    assert not cases["wrong"]


def test_they_compile_for_gpus_without_one(tmp_path_factory):
    sizes = in_process(tmp_path_factory, "compile", TRITON_INTERPRET="0")
    assert len(sizes) > len(TARGETS)
    for name, size in sizes.items():
        assert size["spilled"] == 0, name
        assert size["registers"] <= 168, f"{name}: fewer than three programs fit a processor"
        assert size["popc"] > 0, f"{name}: bits are counted by one instruction each"


def test_nothing_of_triton_is_imported_without_a_gpu():
    code = (
        "import sys, torch, steppe\n"
        "layer = steppe.sparse.Linear.of(torch.nn.Linear(64, 8), format='bits')\n"
        "layer(torch.ones(1, 64)); layer(torch.ones(40, 64)); layer.matrix.to_dense()\n"
        "print([m for m in sys.modules if m.split('.')[0] == 'triton' or 'triton.k' in m])\n"
    )
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]"]


def test_without_triton_there_are_no_kernels(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "steppe.sparse.triton.kernels", raising=False)
    kernels.cache_clear()
    try:
        assert kernels() is None
        assert not works_on(torch.device("cpu"))
    finally:
        kernels.cache_clear()


def test_every_number_of_tokens_has_its_chunks():
    assert {padded_tokens(n) for n in range(1, MOST_TOKENS + 1)} == set(CHUNKS)


GPU = works_on(torch.device("cuda")) if torch.cuda.is_available() else False


@pytest.mark.cuda
@pytest.mark.skipif(not GPU, reason="needs a GPU of compute capability 8.0 or more, and triton")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu_they_agree_with_float64(dtype):
    for rows, columns in ((768, 768), (1030, 515), (4096, 1100)):
        dense = torch.randn(rows, columns).to(dtype)
        dense[torch.rand(rows, columns) < 0.6] = 0
        matrix = FORMATS["bits"].from_dense(dense).mapped(lambda t: t.cuda())
        assert torch.equal(matrix.to_dense().cpu(), dense)
        for tokens in (1, 3, 16, 17):
            x, bias = torch.randn(tokens, columns).to(dtype), torch.randn(rows).to(dtype)
            y = matrix.linear(x.cuda(), bias.cuda()).cpu().double()
            wanted = x.double() @ dense.double().t() + bias.double()
            unit = torch.finfo(dtype).eps if tokens <= MOST_TOKENS else 8 * torch.finfo(dtype).eps
            size = x.double().abs() @ dense.double().abs().t()
            assert ((y - wanted).abs() <= unit * wanted.abs() + 1e-6 * size + 1e-30).all()


@pytest.mark.cuda
@pytest.mark.skipif(not GPU, reason="needs a GPU of compute capability 8.0 or more, and triton")
def test_on_a_gpu_a_layer_is_multiplied_by_them_and_captured():
    dense = torch.randn(256, 512).masked_fill(torch.rand(256, 512) < 0.7, 0)
    matrix = FORMATS["bits"].from_dense(dense).mapped(lambda t: t.cuda())
    x = torch.randn(1, 512, device="cuda")
    assert BITS.quick(x.device)
    eager = matrix.linear(x, None)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = matrix.linear(x, None)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, eager)
