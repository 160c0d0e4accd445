"""One linear layer with zeros: our formats beside torch dense, torch CSR and scipy CSR.

    python benchmarks/bench_sparse.py --record            # what the record lacks, then what it says
    python benchmarks/bench_sparse.py --check --record    # only that; exit code 1 for a miss

Every cell is timed in turns in one process, in changing order. A turn goes over so many copies of
the matrix that no cache holds them, because in a model the other layers' weights pass between two
uses of one; the time is that of one. Cells that the record holds already, of the same processor and
the same kernels, are not done again. A matrix has normal weights of which the least are zero.
``auto`` is what `steppe.load` takes for such a matrix and so many tokens.

What it costs: 5 shapes, 6 sparsities, 2 dtypes, 3 numbers of tokens and 2 of threads are 360
cells of one to four seconds, and what ``auto`` measures for each once; long prompts are 18 more.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import scipy.sparse
import torch
from record_file import add_record, write_record
from torch import Tensor
from torch.nn import functional as F

from steppe.core.speed import Speed
from steppe.sparse.choose import Question, choose, conditions
from steppe.sparse.format import FORMATS

SHAPES = ((768, 768), (2048, 2048), (4096, 4096), (4096, 11008), (11008, 4096))
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOKENS = (1, 4, 16)
THREADS = (1, 2)
PROMPTS = (17, 64, 512)
"""Tokens of the one shape that is measured beyond what the kernels multiply."""
PROMPT_SHAPE = (4096, 11008)
PROMPT_SPARSITIES = (0.5, 0.7, 0.9)
TURNS = 11
AIMS = {
    "bfloat16": {0.5: 1.4, 0.7: 2.0, 0.9: 4.0},  # of the faster dense product
    "float32": {0.5: 1.5, 0.7: 2.2, 0.9: 5.0},  # of the dense one in float32
}
"""Times as fast, of PROMPT_SHAPE with one token and the most threads."""
SLOWEST = 0.97
"""What ``auto`` takes is nowhere slower than this beside dense in the same dtype."""
BEYOND = 96 * 2**20  # bytes; three times the largest cache that this was run on
Layer = Callable[[Tensor], Any]


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
    for sparsity, dtype, tokens in itertools.product(PROMPT_SPARSITIES, DTYPES, PROMPTS):
        yield {
            "shape": list(PROMPT_SHAPE),
            "sparsity": sparsity,
            "dtype": dtype,
            "tokens": tokens,
            "threads": max(THREADS),
        }


def pruned(shape: tuple[int, int], sparsity: float) -> Tensor:
    """Normal weights [outputs, inputs] of which the least are zero."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    sample = weight.flatten()[: 2**20].abs()
    return weight.where(weight.abs() > torch.quantile(sample, sparsity), 0.0)  # times would be -0.0


def ours(weight: Tensor, dtype: torch.dtype) -> dict[str, list[Layer]]:
    """Layers in both formats, as a model calls them."""
    layers = {}
    for name in ("bits", "index"):
        first = FORMATS[name].from_dense(weight.to(dtype))
        copies = copied(first, first.bytes, lambda own: own.mapped(torch.clone))
        layers[name] = [(lambda x, own=own: own.linear(x.to(dtype), None)) for own in copies]
    return layers


def peers(weight: Tensor) -> dict[str, list[Layer]]:
    """The same product by torch and by scipy; these take float32 inputs or convert one vector."""
    layers: dict[str, list[Layer]] = {}
    for kind, dtype in DTYPES.items():
        first = weight.to(dtype)
        copies = copied(first, first.nbytes, torch.clone)
        layers[f"torch dense {kind}"] = [
            (lambda x, own=own, dtype=dtype: F.linear(x.to(dtype), own)) for own in copies
        ]
    kept = int(torch.count_nonzero(weight))
    csr = copied(weight.to_sparse_csr(), 12 * kept, torch.clone)
    layers["torch CSR"] = [(lambda x, own=own: own @ x.t()) for own in csr]
    rows = copied(scipy.sparse.csr_matrix(weight.numpy()), 8 * kept, lambda own: own.copy())
    layers["scipy CSR"] = [
        (lambda x, own=own: own @ np.ascontiguousarray(x.numpy().T)) for own in rows
    ]
    return layers


def copied(first: Any, size: int, copy: Callable[[Any], Any]) -> list[Any]:
    """So many of one that their bytes do not fit into a cache."""
    return [first, *(copy(first) for _ in range(BEYOND // size))]


@torch.no_grad()
def in_turns(arms: dict[str, list[Callable[[], Any]]], turns: int) -> dict[str, list[float]]:
    """Milliseconds of one call of each arm, one turn after the other, in changing order."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for works in arms.values():
        for work in works:
            work()
    for turn in range(turns):
        names = list(arms)[turn % len(arms) :] + list(arms)[: turn % len(arms)]
        for name in names:
            begun = time.perf_counter()
            for work in arms[name]:
                work()
            times[name].append(1000 * (time.perf_counter() - begun) / len(arms[name]))
    return times


def measured(cell: dict[str, Any], layers: dict[str, list[Layer]]) -> dict[str, Any]:
    """One row of the record."""
    torch.set_num_threads(cell["threads"])
    chosen = chosen_by_auto(cell)
    inputs = torch.randn(cell["tokens"], cell["shape"][1])
    own = inputs.to(DTYPES[cell["dtype"]])
    formats = ("bits", "index")
    many = cell["tokens"] > max(TOKENS)  # rows of scipy and torch CSR would take seconds
    arms = {
        name: [partial(layer, own if name in formats else inputs) for layer in copies]
        for name, copies in layers.items()
        if not (many and name.endswith("CSR"))
    }
    times = in_turns(arms, TURNS)
    dense = {kind: times[f"torch dense {kind}"] for kind in DTYPES}
    fastest = min(dense.values(), key=median)
    best = min(formats, key=lambda name: median(times[name]))
    pairs = {
        "fastest dense": (fastest, times[best]),
        "same dense": (dense[cell["dtype"]], times[best]),
        "auto beside dense": (dense[cell["dtype"]], times.get(chosen, dense[cell["dtype"]])),
    }
    speeds = {
        name: Speed.of(list(zip(*both, strict=True)), "zeros are not read").record()
        for name, both in pairs.items()
    }
    medians = {name: median(own) for name, own in times.items()}
    return cell | {"ms": medians, "best": best, "auto": chosen} | speeds


def chosen_by_auto(cell: dict[str, Any]) -> str:
    """The format that ``auto`` takes for such a matrix and so many tokens; it measures once."""
    dtype, (rows, columns) = DTYPES[cell["dtype"]], cell["shape"]
    kept = round(rows * columns * (1 - cell["sparsity"]))
    return choose(Question.about((rows, columns), kept, dtype, dtype, cell["tokens"])).format


def misses(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What falls short of the aims, a line each."""
    for row in rows:
        what = [row[key] for key in ("shape", "sparsity", "dtype", "tokens", "threads")]
        ratio = row["auto beside dense"]["ratio"]
        if ratio < SLOWEST:
            yield f"{what}: auto took {row['auto']}, {ratio:.3f} times as fast as dense"
        aim = AIMS[row["dtype"]].get(row["sparsity"])
        if aim and what[::4] == [list(PROMPT_SHAPE), max(THREADS)] and row["tokens"] == 1:
            against = "fastest dense" if row["dtype"] == "bfloat16" else "same dense"
            if (ratio := row[against]["ratio"]) < aim:
                yield f"{what}: {ratio:.2f} times as fast as the {against}, aim {aim}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add_record(parser, "sparse")
    parser.add_argument("--shape", help="only this one, as 4096x11008")
    parser.add_argument("--sparsity", type=float, help="only this one")
    parser.add_argument("--check", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    here = conditions()
    stored = json.loads(arguments.record.read_text()) if arguments.record.exists() else {}
    rows = stored["rows"] if arguments.check or stored.get("conditions") == here else []
    keys = ("shape", "sparsity", "dtype", "tokens", "threads")
    done = [[row[key] for key in keys] for row in rows]
    made: tuple[Any, dict[str, list[Layer]]] = (None, {})
    for cell in () if arguments.check else cells():
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
        print(*matrix, row["tokens"], row["threads"], row["auto"], row["ms"], flush=True)
        write_record(arguments.record, {"conditions": here, "rows": rows})
    short = list(misses(rows))
    print("\n".join(short) or f"{len(rows)} cells, every aim is met")
    sys.exit(arguments.check and bool(short))


if __name__ == "__main__":
    main()
