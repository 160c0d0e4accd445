"""What the exact pooled threshold costs, against named peers in the same run.

    python benchmarks/bench_selection.py --sizes 25 100

In every round each contender runs once, so that a busy machine disturbs all of them alike; the
ratios are medians over the rounds of one contender's time over the other's. The peers are given
``|w|`` ready made, ours reads the signed weights. Extra memory is the growth of the peak resident
memory in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record_file import add_record, write_record

from steppe.core.selection import count, keep_largest, threshold

SPARSITIES = (0.5, 0.9, 0.95, 0.99)
SLOW_REPEATS = 3  # rounds with the slow peers once a size passes 50 million
# name: (numerator, denominator, bound, whether the ratio must be at least or at most the bound)
TARGETS = {
    "topk over ours": ("topk", "ours", 6.0, "at least"),
    "kthvalue over ours": ("kthvalue", "ours", 4.0, "at least"),
    "partition over ours": ("partition", "ours", None, ""),
    "ours over copy": ("ours", "copy", 5.0, "at most"),
}
MEMORY = """
import resource, sys, torch
from steppe.core.selection import count, threshold
n = int(sys.argv[1])
w = torch.randn(n, generator=torch.Generator().manual_seed(0))
threshold([w[: n // 16]], n // 32)  # what the libraries allocate once is not counted
def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
try:
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    before, peak = status("VmRSS"), lambda: status("VmHWM")
except OSError:
    unit = 1 if sys.platform == "darwin" else 1024
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    before = peak()
for sparsity in map(float, sys.argv[2:]):
    threshold([w], count(sparsity, n))
print((peak() - before) / (4 * n))
"""


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def race(w: torch.Tensor, sparsity: float, repeats: int) -> dict[str, Any]:
    """Rounds of all contenders at one sparsity."""
    n = w.numel()
    k = count(sparsity, n)
    size, copy = w.abs(), torch.empty_like(w)
    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: threshold([w], k),
        "copy": lambda: copy.copy_(w),
        "topk": lambda: torch.topk(size, n - k, sorted=False),
        "kthvalue": lambda: torch.kthvalue(size, k),
        "partition": lambda: np.partition(size.numpy(), k - 1),
    }
    value, _ = threshold([w], k)
    assert value == float(np.partition(size.numpy(), k - 1)[k - 1]), "the threshold is not exact"
    copy.copy_(w)
    slow_repeats = min(repeats, SLOW_REPEATS) if n > 50e6 else repeats
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(repeats):
        for name, work in contenders.items():
            if name in ("ours", "copy") or i < slow_repeats:
                times[name].append(seconds(work))
    result: dict[str, Any] = {
        "elements": n,
        "sparsity": sparsity,
        "milliseconds": {m: round(statistics.median(t) * 1e3, 2) for m, t in times.items()},
        "ratios": {},
    }
    for name, (above, below, bound, sense) in TARGETS.items():
        pairs = zip(times[above], times[below], strict=False)
        ratio = statistics.median(a / b for a, b in pairs)
        result["ratios"][name] = {"median": round(ratio, 2)}
        if bound is not None:
            holds = ratio >= bound if sense == "at least" else ratio <= bound
            result["ratios"][name] |= {"target": f"{sense} {bound:g}", "holds": holds}
    return result


def extra_memory(n: int) -> dict[str, Any]:
    """Peak memory beyond the weights, as a share of the weights' bytes."""
    command = [sys.executable, "-c", MEMORY, str(n), *map(str, SPARSITIES)]
    share = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {"share": round(share, 4), "target": "at most 0.2", "holds": share <= 0.2}


def masks_of_a_small_network(repeats: int) -> dict[str, Any]:
    """One projection of a ResNet-20: all masks of its 22 weight tensors."""
    sizes = [432, *[2304] * 7, 4608, *[9216] * 5, 18432, *[36864] * 5, 640, 16]
    g = torch.Generator().manual_seed(0)
    tensors = {f"t{i:02}": torch.randn(size, generator=g) for i, size in enumerate(sizes)}
    prune = count(0.95, sum(sizes))
    keep_largest(tensors, prune)
    taken = statistics.median(seconds(lambda: keep_largest(tensors, prune)) for _ in range(repeats))
    return {
        "elements": sum(sizes),
        "milliseconds": round(taken * 1e3, 2),
        "target": "at most 3 ms",
        "holds": taken <= 3e-3,
    }


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Measure, print a table and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--sizes", nargs="+", type=float, default=[25, 100], help="in millions")
    parser.add_argument("--repeats", type=int, default=7)
    add_record(parser, "selection")
    arguments = parser.parse_args()
    record: dict[str, Any] = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "repeats": arguments.repeats,
        "load average at the start": round(os.getloadavg()[0], 2),
        "small network": masks_of_a_small_network(10 * arguments.repeats),
        "extra memory": {},
        "threshold": [],
    }
    print(f"{'elements':>12} {'sparsity':>8} {'ours ms':>9}" + "".join(f"{t:>21}" for t in TARGETS))
    for n in (int(size * 1e6) for size in arguments.sizes):
        record["extra memory"][str(n)] = extra_memory(n)
        w = torch.randn(n, generator=torch.Generator().manual_seed(0))
        for sparsity in SPARSITIES:
            row = race(w, sparsity, arguments.repeats)
            record["threshold"].append(row)
            marks = {True: "holds", False: "MISSED", None: ""}
            cells = (f"{r['median']:.2f} {marks[r.get('holds')]:6}" for r in row["ratios"].values())
            print(
                f"{n:>12} {sparsity:>8} {row['milliseconds']['ours']:>9.1f}"
                + "".join(f"{cell:>21}" for cell in cells),
                flush=True,
            )
    record["load average at the end"] = round(os.getloadavg()[0], 2)
    for n, memory in record["extra memory"].items():
        print(f"extra memory at {n}: {memory['share']:.1%}, holds: {memory['holds']}")
    small = record["small network"]
    print(f"masks of {small['elements']} weights: {small['milliseconds']} ms")
    write_record(arguments.record, record)


if __name__ == "__main__":
    main()
