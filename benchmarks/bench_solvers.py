"""What the layer solvers cost and leave, in units of one matrix product.

    python benchmarks/bench_solvers.py --sizes 1024 2048 4096 --official solver-official.csv

A random layer of n outputs and n inputs: W ~ N(0, 1/n); X = A B / sqrt(n/8) + 0.3 E with A
(4n x n/8), B (n/8 x n) and E (4n x n) standard normal; G = X'X / 4n. In every round one n-cube
float32 product and each solver run once, so that a busy machine disturbs all of them alike; shown
are the medians of seconds and of the ratios within a round. The error is tr(D G D') / tr(W G W'),
D = pruned - W. The official rows, where given, are another run's: same kind of layer, and seconds
over that run's own product. `--peers` runs the published rules beside ours, see solver_peers.py. On
a machine that others use, `--clock cpu` counts the processor seconds of one thread, for solvers and
product alike; such figures are not compared with the official ones, which are of two threads and
of the wall clock.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import solver_peers
import torch
from record_file import add_record, write_record
from torch import Tensor

from steppe import methods
from steppe.core.layer_problem import LayerProblem
from steppe.core.selection import count
from steppe.method import Method

CASES = ((0.5, "unstructured"), (0.7, "unstructured"), (0.5, "2:4"))
# how many times fewer matrix products than the official rows we ask for
TARGETS = {("sparsegpt", 2048): 2.5, ("sparsegpt", 4096): 1.8, "alps": 3.0}
COLUMNS = (
    "matmuls",
    "relative_error",
    "official_matmuls",
    "official_relative_error",
    "times_fewer",
    "peer_matmuls",
    "peer_relative_error",
    "times_fewer_than_peer",
)
Row = dict[str, Any]


def random_layer(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """W ``[n, n]`` and G ``[n, n]``."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, n, generator=g) / math.sqrt(n)
    low = torch.randn(4 * n, n // 8, generator=g)
    inputs = low @ torch.randn(n // 8, n, generator=g) / math.sqrt(n / 8)
    inputs += 0.3 * torch.randn(4 * n, n, generator=g)
    return weight, inputs.T @ inputs / len(inputs)


def problem(method: Method, weight: Tensor, gram: Tensor) -> LayerProblem:
    """The layer as the blockwise engine poses it."""

    def choose(saliency: Tensor, prune: int) -> Tensor:
        kept = method.structure.select({"": saliency})
        return method.budget.within(saliency, prune) if kept is None else kept[""]

    return LayerProblem(
        name="random layer",
        weight=weight,
        statistics={"gram": gram},
        prune=count(method.sparsity, weight.numel()),
        choose=choose,
        score=method.score,
        multiple=method.structure.columns or 1,
        note=print,
    )


def seconds(work: Callable[[], object], clock: str) -> float:
    """Time of one call: passed by the wall clock, or used by this thread."""
    now = time.perf_counter if clock == "wall" else time.thread_time
    start = now()
    work()
    return now() - start


def peer(name: str, weight: Tensor, gram: Tensor, sparsity: float, structure: str) -> Tensor:
    """The published rule of that name."""
    zeros, group = (2, 4) if structure == "2:4" else (0, 0)
    rule = {"sparsegpt": solver_peers.sparsegpt, "alps": solver_peers.alps}[name]
    return rule(weight, gram, sparsity, zeros, group)


def measure(
    n: int, repeats: int, seed: int, clock: str, peers: bool, solvers: Sequence[str]
) -> list[Row]:
    """Rounds of the matrix product and of each solver at one size."""
    weight, gram = random_layer(n, seed)

    def error(new: Tensor) -> float:
        change = new - weight
        left = float(((change @ gram) * change).sum() / ((weight @ gram) * weight).sum())
        return round(left, 6)

    contenders: dict[tuple[str, float, str], Callable[[], tuple[Tensor, Tensor]]] = {}
    rows: list[Row] = []
    for name in solvers:
        # ALPS takes minutes on the largest: one case, as in the official table
        for sparsity, structure in CASES[:1] if name == "alps" and n >= 4096 else CASES:
            method = methods.make(name, sparsity=sparsity, structure=structure)
            posed = problem(method, weight, gram)
            contenders[name, sparsity, structure] = lambda m=method, p=posed: m.coupling.solve(p)  # type: ignore[misc]
    for (name, sparsity, structure), work in contenders.items():
        new, mask = work()  # also warms up
        assert int((~mask).sum()) == count(sparsity, n * n)
        key = {"method": name, "size": n, "sparsity": sparsity, "structure": structure}
        rows.append({**key, "relative_error": error(new)})
        if peers:
            rows[-1]["peer_relative_error"] = error(peer(name, weight, gram, sparsity, structure))
    times: list[list[float]] = [[] for _ in rows]
    ratios: list[list[float]] = [[] for _ in rows]
    peer_ratios: list[list[float]] = [[] for _ in rows]
    products: list[float] = []
    for _ in range(repeats):
        for i, (key_, work) in enumerate(contenders.items()):
            name, sparsity, structure = key_
            before = seconds(lambda: weight @ gram, clock)
            taken = seconds(work, clock)
            product = (before + seconds(lambda: weight @ gram, clock)) / 2
            products.append(product)
            times[i].append(taken)
            ratios[i].append(taken / product)
            if peers:
                theirs = seconds(lambda: peer(name, weight, gram, sparsity, structure), clock)  # noqa: B023
                peer_ratios[i].append(theirs / product)
    for row, taken_, ratio in zip(rows, times, ratios, strict=True):
        row["seconds"] = round(statistics.median(taken_), 4)
        row["matmul_seconds"] = round(statistics.median(products), 5)
        row["matmuls"] = round(statistics.median(ratio), 2)
        row["matmuls_least"] = round(min(ratio), 2)
    for row, ratio in zip(rows, peer_ratios, strict=True):
        if ratio:
            row["peer_matmuls"] = round(statistics.median(ratio), 2)
            row["times_fewer_than_peer"] = round(row["peer_matmuls"] / row["matmuls"], 2)
    return rows


def read_official(path: Path | None) -> dict[tuple[str, int, float, str], dict[str, str]]:
    """The rows of the official run by method, size, sparsity and structure."""
    if path is None:
        return {}
    lines = [x for x in path.read_text().splitlines() if not x.startswith("#")]
    return {
        (r["method"], int(r["size"]), float(r["sparsity"]), r["structure"]): r
        for r in csv.DictReader(lines)
    }


def beside(row: Row, official: dict[str, str] | None, clock: str) -> None:
    """Add the official figures and, on their clock, whether the target holds."""
    if official is None:
        return
    theirs = float(official["matmuls"])
    row["official_matmuls"] = theirs
    row["official_relative_error"] = float(official["relative_error"])
    if clock != "wall":
        return
    row["times_fewer"] = round(theirs / row["matmuls"], 2)
    target = TARGETS.get((row["method"], row["size"])) or TARGETS.get(row["method"])
    if target is not None:
        row["target"] = f"at least {target:g} times fewer"
        row["holds"] = theirs / row["matmuls"] >= target


def main() -> None:
    """Measure, print a table and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[1024, 2048, 4096])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--official", type=Path, help="solver-official.csv")
    parser.add_argument("--peers", action="store_true", help="run the published rules too")
    parser.add_argument("--solvers", nargs="+", default=["sparsegpt", "alps"])
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    add_record(parser, "solvers")
    arguments = parser.parse_args()
    official = read_official(arguments.official)
    if arguments.clock == "cpu":
        torch.set_num_threads(1)  # or threads that wait would count as work
    record: dict[str, Any] = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "clock": arguments.clock,
        "repeats": arguments.repeats,
        "seed": arguments.seed,
        "load average at the start": round(os.getloadavg()[0], 2),
        "solvers": [],
    }
    print("method,size,sparsity,structure,seconds," + ",".join(COLUMNS))
    for n in arguments.sizes:
        repeats = arguments.repeats if n < 4096 else max(1, arguments.repeats // 3)
        for row in measure(
            n, repeats, arguments.seed, arguments.clock, arguments.peers, arguments.solvers
        ):
            key = (row["method"], n, row["sparsity"], row["structure"])
            beside(row, official.get(key), arguments.clock)
            record["solvers"].append(row)
            cells = (row.get(column, "") for column in COLUMNS)
            print(*key, row["seconds"], *cells, sep=",", flush=True)
    record["load average at the end"] = round(os.getloadavg()[0], 2)
    write_record(arguments.record, record)


if __name__ == "__main__":
    main()
