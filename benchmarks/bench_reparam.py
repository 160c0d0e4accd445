"""What it costs that weights are functions of other tensors, against a plain step.

    python benchmarks/bench_reparam.py

ResNet-20, batch 128, SGD with momentum; the arms take turns, medians of the paired ratios. Memory
is counted: parameters, gradients, the optimiser's and the coupling's state.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from datetime import date
from typing import Any

import torch
from bench_step import network, paired, ratio
from record_file import add_record, write_record
from torch import Tensor
from torch.nn import functional as F

import steppe

PLAIN = "plain step"
METHODS: dict[str, Callable[[], steppe.Method]] = {
    "hard mask (at 90 %)": lambda: steppe.methods.make("magnitude", sparsity=0.9, at=0.0),
    "m * w (pilot)": lambda: steppe.methods.make("pilot", sparsity=0.9, decay="constant"),
    "m * w, cut (pilot at 90 %)": lambda: steppe.methods.make(
        "pilot", sparsity=0.9, decay="constant", at=0.0
    ),
    "soft threshold (STR)": lambda: steppe.methods.make("soft_threshold", sparsity=0.9),
    "proximal L1": lambda: steppe.methods.make("lasso", sparsity=0.9),
}


def made(batch: int) -> tuple[dict[str, Callable[[], None]], dict[str, Callable[[], int]]]:
    """A step of each arm, and the bytes that it holds after one."""
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    steps: dict[str, Callable[[], None]] = {}
    held: dict[str, Callable[[], int]] = {}

    model, optimizer = network()

    def plain() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    steps[PLAIN], held[PLAIN] = plain, lambda: size(model, optimizer, {})
    for name, method in METHODS.items():
        own, sgd = network()
        sparsifier = steppe.sparsify(own, sgd, method(), 10**9)

        def work(own: Any = own, sparsifier: Any = sparsifier) -> None:
            sparsifier.step(lambda: F.cross_entropy(own(x), y))

        def count(own: Any = own, sgd: Any = sgd, sparsifier: Any = sparsifier) -> int:
            return size(own, sgd, sparsifier.state)

        steps[name], held[name] = work, count
    return steps, held


def size(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, dict[str, Tensor]]
) -> int:
    tensors = [t for p in model.parameters() for t in (p, p.grad) if t is not None]
    tensors += [t for s in optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
    tensors += [t for part in state.values() for t in part.values()]
    return sum(t.numel() * t.element_size() for t in tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    add_record(parser, "reparam")
    arguments = parser.parse_args()
    steps, held = made(arguments.batch)
    times = paired(steps, arguments.repeats, 3)
    bytes_of = {name: count() for name, count in held.items()}
    result = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "over_plain": {name: ratio(times, name, PLAIN) for name in METHODS},
        "bytes": bytes_of,
        "prunable_bytes": 4 * 268_336,
    }
    print(json.dumps(result, indent=1))
    write_record(arguments.record, result)


if __name__ == "__main__":
    main()
