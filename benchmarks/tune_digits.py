"""Chooses the demo's options on a validation split: ``python benchmarks/tune_digits.py``.

Prints the mean validation accuracy of every candidate at 95 and 99 % over seeds that the demo
does not use, and the best one per method. The choice is written by hand into
``src/steppe/cli/demo.yaml``; the test images play no part.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from steppe.core.errors import Diverged
from steppe.experiment.experiment import Experiment, load_data
from steppe.experiment.recipe import parse

GRID: dict[str, dict[str, list[Any]]] = {
    "dense": {"lr": [0.05, 0.1, 0.2], "rho": [0.0]},
    "magnitude": {"lr": [0.1, 0.2]},
    "gmp": {"lr": [0.1, 0.2], "every": [8], "end": [0.5, 0.75, 1.0]},
    "admm": {"lr": [0.1, 0.2]},
    "safe": {"lr": [0.1, 0.2], "rho": [0.1, 0.2, 0.4]},
}
SEEDS = (100, 101, 102)


def one(job: tuple[str, dict[str, Any], float, int]) -> float:
    """Validation accuracy of one candidate."""
    torch.set_num_threads(1)
    name, options, sparsity, seed = job
    options = dict(options)
    lr = options.pop("lr")
    if name != "dense":
        options["sparsity"] = sparsity
    recipe = parse(
        {
            "model": {"name": "lenet-300-100"},
            "data": {"name": "digits", "validation": 0.2, "augment": None},
            "method": {"name": name} | options,
            "train": {"epochs": 60, "lr": lr, "batch_size": 128, "eval_every": 0},
            "seed": seed,
            "device": "cpu",
        }
    )
    try:
        record, _, _ = Experiment(recipe, load_data(recipe), None, True, "validation").train()
    except Diverged:  # a candidate that does not work
        return 0.0
    return float(record["sparse"]["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=list(GRID))
    arguments = parser.parse_args()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for name in arguments.methods:
            grid = GRID[name]
            levels = (0.95, 0.99) if name != "dense" else (0.0,)
            candidates = [
                dict(zip(grid, v, strict=True)) for v in itertools.product(*grid.values())
            ]
            jobs = [(name, c, s, k) for c in candidates for s in levels for k in SEEDS]
            scores = list(pool.map(one, jobs, chunksize=6))
            rows = []
            for i, candidate in enumerate(candidates):
                n = len(SEEDS)
                start = i * len(levels) * n
                means = [
                    statistics.mean(scores[start + j * n : start + (j + 1) * n])
                    for j in range(len(levels))
                ]
                rows.append((statistics.mean(means), means, candidate))
            for mean, means, candidate in sorted(rows, key=lambda r: -r[0])[:6]:
                print(name, f"{mean:.4f}", [f"{m:.4f}" for m in means], candidate, flush=True)


if __name__ == "__main__":
    main()
