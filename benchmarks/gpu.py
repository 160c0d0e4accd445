"""All that needs a GPU, in one command and under nine minutes: tests, speed, a training run.

    python benchmarks/gpu.py    # make gpu

Each stage has a time of its own, after which it ends with what it has. The record is written after
each. Without a GPU one line says so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record_file import add_record, write_record
from torch import Tensor, nn
from torch.nn import functional as F

import steppe
from steppe.core.speed import Speed
from steppe.engine.model_latency import in_turns
from steppe.llm.semi_structured import is_two_four
from steppe.sparse.format import FORMATS
from steppe.sparse.triton import bits
from steppe.vision.models import build

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 540.0
"""Seconds that all stages take together at most."""
SHAPES = ((4096, 11008), (4096, 4096), (11008, 4096), (2048, 2048), (768, 768))
SPARSITIES = (0.5, 0.7, 0.9)
TOKENS = (1, 4, 16)
TILINGS = tuple(itertools.product((8, 16, 32), (2, 4, 8)))
TURNS = 25
FLUSH = 256 * 2**20  # bytes, more than any GPU keeps at hand


@dataclass(frozen=True)
class Stage:
    """One part of the plan.

    Args:
        name: its key in the record.
        seconds: after which it ends.
        work: called with these seconds; gives what the record says of it. ``failed`` among its
            keys says why it is to count as failed.
    """

    name: str
    seconds: float
    work: Callable[[float], dict[str, Any]]


def run(
    stages: Sequence[Stage],
    out: Path,
    hardware: dict[str, Any],
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Every stage in turn, whatever became of the others; the record, written after each."""
    record: dict[str, Any] = {"date": date.today().isoformat(), **hardware, "stages": {}}
    for stage in stages:
        begun = clock()
        try:
            result = stage.work(stage.seconds)
        except Exception as error:  # the others are still worth running
            result = {"failed": f"{type(error).__name__}: {error}"}
        result = {"seconds": round(clock() - begun, 1), "of_seconds": stage.seconds} | result
        record["stages"][stage.name] = result
        write_record(out, record)
        print(f"{stage.name}: {result.get('failed', 'done')}, {result['seconds']} s", flush=True)
    return record


def hardware() -> dict[str, Any]:
    """The GPU and what runs on it."""
    capability = torch.cuda.get_device_capability()
    programs = bits.kernels()
    return {
        "gpu": torch.cuda.get_device_name(),
        "capability": f"{capability[0]}.{capability[1]}",
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": programs.triton.__version__ if programs is not None else None,
    }


def command(words: Sequence[str], seconds: float) -> str:
    """Why a command failed; "" when it did not."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=ROOT,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {seconds:.0f} s"
    return "" if done.returncode == 0 else (done.stdout + done.stderr)[-1500:]


def tests(seconds: float) -> dict[str, Any]:
    """Every test that is marked ``cuda``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tests.xml"
        failed = command(["pytest", "-m", "cuda", "tests", f"--junitxml={path}"], seconds)
        counts: dict[str, Any] = {}
        if path.is_file():
            suite = ElementTree.parse(path).getroot().find("testsuite")
            assert suite is not None
            keys = ("tests", "failures", "errors", "skipped")
            counts = {key: int(suite.attrib[key]) for key in keys}
    return counts | ({"failed": failed} if failed else {})


def cuda_turns(works: dict[str, Callable[[], Any]], turns: int = TURNS) -> dict[str, list[float]]:
    """Milliseconds of each on the GPU, in changing order, its cache overwritten before each.

    While the cache is overwritten what follows is queued, so that starting it takes no time.
    """
    other = torch.empty(FLUSH, dtype=torch.int8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in list(works.values()) * 3:
        work()
    for turn in range(turns):
        names = list(works)[turn % len(works) :] + list(works)[: turn % len(works)]
        for name in names:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            other.zero_()
            start.record()
            works[name]()
            end.record()
            end.synchronize()
            times[name].append(float(start.elapsed_time(end)))
    return times


def pruned(shape: tuple[int, int], sparsity: float, device: str = "cuda") -> Tensor:
    """Normal bfloat16 weights, some zero; at a half, two of every four consecutive ones.

    Example:
        >>> pruned((2, 8), 0.5, "cpu").view(-1, 4).count_nonzero(1).tolist()
        [2, 2, 2, 2]
    """
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=draw).to(device, torch.bfloat16)
    if sparsity == 0.5:
        fours = weight.view(-1, 4)
        return fours.scatter(1, fours.abs().topk(2, 1, largest=False).indices, 0).view(shape)
    return weight.masked_fill(torch.rand(shape, generator=draw).to(device) < sparsity, 0)


@torch.no_grad()
def product(weight: Tensor, tokens: int) -> dict[str, Any]:
    """One matrix times some tokens: bits and 2:4 beside dense."""
    x = torch.randn(tokens, weight.shape[1], device=weight.device).to(weight.dtype)
    packed = FORMATS["bits"].from_dense(weight)
    works: dict[str, Callable[[], Any]] = {"dense": partial(F.linear, x, weight)}
    works["bits"] = partial(packed.linear, x, None)
    wanted = F.linear(x, weight).float()
    refused = {} if is_two_four(weight) else {"2:4": "the weight is not"}
    if not refused:
        try:
            works["2:4"] = partial(F.linear, x, torch.sparse.to_sparse_semi_structured(weight))
            works["2:4"]()
        except (RuntimeError, NotImplementedError, ValueError) as error:
            works.pop("2:4", None)  # the kernels' own limits on shapes differ by GPU
            refused = {"2:4": str(error).splitlines()[0]}
    apart = [float((work().float() - wanted).abs().max()) for work in works.values()]
    times = cuda_turns(works)
    speeds = {
        name: Speed.of(list(zip(times["dense"], own, strict=True))).record()
        for name, own in times.items()
        if name != "dense"
    }
    return {
        "ms": {name: median(own) for name, own in times.items()},
        "speeds": speeds,
        "refused": refused,
        "bytes_over_dense": packed.bytes / (weight.numel() * weight.element_size()),
        "difference": max(apart) / float(wanted.abs().max()),
    }


@torch.no_grad()
def tilings(weight: Tensor) -> dict[str, float]:
    """Milliseconds of one token by chunks and warps of a program: what `bits.CHUNKS` should be."""
    x = torch.randn(1, weight.shape[1], device=weight.device).to(weight.dtype)
    packed = FORMATS["bits"].from_dense(weight)
    parts = packed.tensors()
    matrix = (parts["where"], parts["values"], parts["starts"], None, *weight.shape)
    works = {
        f"{chunks} chunks, {warps} warps": partial(bits.linear, x, None, matrix, chunks, warps)
        for chunks, warps in TILINGS
    }
    return {name: median(own) for name, own in cuda_turns(works).items()}


def products(seconds: float) -> dict[str, Any]:
    """Every shape, sparsity and number of tokens, the most telling first."""
    end = time.monotonic() + seconds
    rows, left = [], 0
    result: dict[str, Any] = {}
    for sparsity, shape in itertools.product(SPARSITIES, SHAPES):
        if time.monotonic() > end:
            left += len(TOKENS)
            continue
        weight = pruned(shape, sparsity)
        for tokens in TOKENS:
            row = {"shape": list(shape), "sparsity": sparsity, "tokens": tokens}
            rows.append(row | product(weight, tokens))
        if shape == SHAPES[0]:
            result[f"tilings at {sparsity}"] = tilings(weight)
    wrong = [row for row in rows if not row["difference"] < 2**-6]
    failed = {"failed": f"{len(wrong)} products differ from dense"} if wrong else {}
    return {"rows": rows, "left": left} | result | failed


def step(seconds: float, device: str = "cuda", batch: int = 128) -> dict[str, Any]:
    """A step of SAFE beside two plain passes and an optimiser step: ResNet-20, float32."""
    x = torch.randn(batch, 3, 32, 32, device=device)
    y = torch.randint(0, 10, (batch,), device=device)

    def network() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = build("resnet20", 10).to(device)
        return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    bare, optimizer = network()
    model, own = network()
    safe = steppe.methods.make("safe", sparsity=0.95, penalty=1e-4, interval=32)
    sparsifier = steppe.sparsify(model, own, safe, 10_000)

    def plain() -> None:
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(bare(x), y).backward()
        optimizer.step()

    def ours() -> None:
        sparsifier.step(lambda: F.cross_entropy(model(x), y))

    dense, sparse = in_turns([plain, ours], cuda=device == "cuda")
    speed = Speed.of(list(zip(dense, sparse, strict=True)))
    return {"plain_ms": median(dense), "safe_ms": median(sparse), "low": speed.low}


def recipe(seconds: float, device: str = "cuda") -> dict[str, Any]:
    """The recipe ``digits`` in full length, from the command line."""
    with tempfile.TemporaryDirectory() as folder:
        run_folder = Path(folder) / "digits"
        words = ["steppe", "train", "digits", "--device", device, "--out", str(run_folder)]
        failed = command(words, seconds)
        if failed:
            return {"failed": failed}
        made = json.loads((run_folder / "record.json").read_text(encoding="utf-8"))
    return {"accuracy": made["sparse"]["accuracy"], "sparsity_asked": made["sparsity_asked"]}


PLAN = (
    Stage("tests", 200, tests),
    Stage("products", 120, products),
    Stage("step", 40, step),
    Stage("recipe", 150, recipe),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add_record(parser, "gpu")
    parser.add_argument("--only", choices=[stage.name for stage in PLAN], help="one stage")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(f"no GPU here (torch {torch.__version__} sees none): nothing was run")
        return 0
    stages = [stage for stage in PLAN if options.only in (None, stage.name)]
    record = run(stages, options.record, hardware())
    return int(any("failed" in result for result in record["stages"].values()))


if __name__ == "__main__":
    sys.exit(main())
