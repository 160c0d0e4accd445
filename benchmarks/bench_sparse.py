"""One linear layer with zeros: our formats beside torch dense, torch CSR and scipy CSR.

    python benchmarks/bench_sparse.py --out benchmarks/records/sparse.json
    python benchmarks/bench_sparse.py --out benchmarks/records/sparse.json --auto

Every cell is timed in turns in one process, in changing order. Before each call a buffer larger
than the last cache is read, because in a model the other layers' weights pass between two uses of
one. Cells that the record holds already, of the same processor and the same kernels, are not done
again. A matrix has normal weights of which the least are zero.

What it costs: 5 shapes, 6 sparsities, 2 dtypes, 3 numbers of tokens and 2 of threads are 360
cells, about five seconds each.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor
from torch.nn import functional as F

from steppe.core.serialization import write_text
from steppe.core.speed import Speed
from steppe.sparse.choose import Question, choose, conditions
from steppe.sparse.format import FORMATS

SHAPES = ((768, 768), (2048, 2048), (4096, 4096), (4096, 11008), (11008, 4096))
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOKENS = (1, 4, 16)
THREADS = (1, 2)
TURNS = 11
FLUSH = 96 * 2**20  # bytes; three times the largest cache that this was run on


def cells() -> Iterator[dict[str, Any]]:
    """Every combination; a matrix is made once for its tokens and threads."""
    for shape, sparsity, dtype in itertools.product(SHAPES, SPARSITIES, DTYPES):
        for threads, tokens in itertools.product(THREADS, TOKENS):
            yield {
                "shape": list(shape),
                "sparsity": sparsity,
                "dtype": dtype,
                "tokens": tokens,
                "threads": threads,
            }


def pruned(shape: tuple[int, int], sparsity: float) -> Tensor:
    """Normal weights [outputs, inputs] of which the least are zero."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    sample = weight.flatten()[: 2**20].abs()
    return weight.where(weight.abs() > torch.quantile(sample, sparsity), 0.0)  # times would be -0.0


def ours(weight: Tensor, dtype: torch.dtype) -> dict[str, Callable[[Tensor], Any]]:
    """One layer in both formats, as a model calls it."""
    forms = {name: FORMATS[name].from_dense(weight.to(dtype)) for name in ("bits", "index")}
    return {name: (lambda x, own=own: own.linear(x.to(dtype), None)) for name, own in forms.items()}


def peers(weight: Tensor) -> dict[str, Callable[[Tensor], Any]]:
    """The same product by torch and by scipy; these take float32 inputs or convert one vector."""
    half = weight.bfloat16()
    csr = weight.to_sparse_csr()
    rows = scipy.sparse.csr_matrix(weight.numpy())
    return {
        "torch dense float32": lambda x: F.linear(x, weight),
        "torch dense bfloat16": lambda x: F.linear(x.bfloat16(), half),
        "torch CSR": lambda x: csr @ x.t(),
        "scipy CSR": lambda x: rows @ np.ascontiguousarray(x.numpy().T),
    }


@torch.no_grad()
def in_turns(arms: dict[str, Callable[[], Any]], turns: int) -> dict[str, list[float]]:
    """Milliseconds of each arm with cold caches, one of each in a turn, in changing order."""
    flush = torch.ones(FLUSH // 4)
    times: dict[str, list[float]] = {name: [] for name in arms}
    for work in arms.values():
        work()
    for turn in range(turns):
        names = list(arms)[turn % len(arms) :] + list(arms)[: turn % len(arms)]
        for name in names:
            flush.sum()
            begun = time.perf_counter()
            arms[name]()
            times[name].append(1000 * (time.perf_counter() - begun))
    return times


def measured(cell: dict[str, Any], layers: dict[str, Callable[[Tensor], Any]]) -> dict[str, Any]:
    """One row of the record."""
    torch.set_num_threads(cell["threads"])
    inputs = torch.randn(cell["tokens"], cell["shape"][1])
    own = inputs.to(DTYPES[cell["dtype"]])
    formats = ("bits", "index")
    arms = {
        name: (lambda layer=layer, x=own if name in formats else inputs: layer(x))
        for name, layer in layers.items()
    }
    times = in_turns(arms, TURNS)
    dense = {kind: times[f"torch dense {kind}"] for kind in DTYPES}
    fastest = min(dense.values(), key=median)
    best = min(formats, key=lambda name: median(times[name]))
    against = {"fastest dense": fastest, "same dense": dense[cell["dtype"]]}
    speeds = {
        name: Speed.of(list(zip(pairs, times[best], strict=True)), "zeros are not read").record()
        for name, pairs in against.items()
    }
    return cell | {"ms": {name: median(own) for name, own in times.items()}, "best": best} | speeds


def with_choice(row: dict[str, Any]) -> dict[str, Any]:
    """The row with what ``auto`` takes for such a matrix, and how fast that was beside dense."""
    torch.set_num_threads(row["threads"])
    dtype, (rows, columns) = DTYPES[row["dtype"]], row["shape"]
    kept = round(rows * columns * (1 - row["sparsity"]))
    chosen = choose(Question.about((rows, columns), kept, dtype, dtype, row["tokens"])).format
    name = f"torch dense {row['dtype']}" if chosen == "dense" else chosen
    ratio = row["ms"][f"torch dense {row['dtype']}"] / row["ms"][name]
    return row | {"auto": chosen, "auto over dense": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/sparse.json"))
    parser.add_argument("--shape", help="only this one, as 4096x11008")
    parser.add_argument("--sparsity", type=float, help="only this one")
    parser.add_argument("--auto", action="store_true", help="ask what auto takes for what is there")
    arguments = parser.parse_args()
    here = conditions()
    stored = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    rows = stored["rows"] if stored.get("conditions") == here else []
    if arguments.auto:
        rows = [with_choice(row) for row in rows]
        write_text(arguments.out, json.dumps({"conditions": here, "rows": rows}, indent=1) + "\n")
        return
    keys = ("shape", "sparsity", "dtype", "tokens", "threads")
    done = [[row[key] for key in keys] for row in rows]
    made: tuple[Any, dict[str, Callable[[Tensor], Any]]] = (None, {})
    for cell in cells():
        text = "x".join(map(str, cell["shape"]))
        if list(cell.values()) in done or (arguments.shape or text) != text:
            continue
        if (arguments.sparsity or cell["sparsity"]) != cell["sparsity"]:
            continue
        matrix = (cell["shape"], cell["sparsity"], cell["dtype"])
        if made[0] != matrix:
            weight = pruned(tuple(cell["shape"]), cell["sparsity"])
            made = (matrix, peers(weight) | ours(weight, DTYPES[cell["dtype"]]))
        rows.append(measured(cell, made[1]))
        row = rows[-1]
        print(*matrix, row["tokens"], row["threads"], row["best"], row["ms"], flush=True)
        write_text(arguments.out, json.dumps({"conditions": here, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
