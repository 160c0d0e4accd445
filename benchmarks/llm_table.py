"""Language models: method x sparsity, beside the official code's figures.

    python benchmarks/llm_table.py MODEL --calibration FILE --evaluate FILE --window 256 \
        --runs benchmarks/llm/table.yaml --out runs/llm-table \
        --record benchmarks/records/llm-table.json [--official FILE.csv]

Each run is a fresh ``steppe prune`` process, so that its peak memory is its own; perplexity is
measured here, the dense model's once. Runs that are done are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

from steppe.core.serialization import write_text
from steppe.llm.load import load
from steppe.llm.perplexity import perplexity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--evaluate", required=True)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--runs", type=Path, required=True, help="YAML: name -> flags")
    parser.add_argument("--only", nargs="*", help="names of runs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--official", type=Path)
    args = parser.parse_args()
    runs = yaml.safe_load(args.runs.read_text())
    done = json.loads(args.record.read_text()) if args.record.exists() else {"runs": {}}
    if "dense" not in done:
        done["dense"] = measure(args.model, args)
        done["matmul_2048_seconds"] = matmul_seconds()
        done["processor"] = processor()
        write_text(args.record, json.dumps(done, indent=1) + "\n")
    for name, flags in runs.items():
        if name in done["runs"] or (args.only and name not in args.only):
            continue
        done["runs"][name] = one(name, flags, args)
        write_text(args.record, json.dumps(done, indent=1) + "\n")
        print(name, json.dumps(done["runs"][name]), flush=True)
    show(done, official(args.official))


def matmul_seconds(n: int = 2048) -> float:
    """The unit in which machines are compared: one float32 product of n-cube."""
    a, b, times = torch.randn(n, n), torch.randn(n, n), []
    for _ in range(12):
        begun = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - begun)
    return sorted(times)[len(times) // 2]


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))


def measure(folder: str | Path, args: argparse.Namespace) -> float:
    model, tokenizer = load(str(folder), dtype="float32")
    found = perplexity(model, args.evaluate, window=args.window, tokenizer=tokenizer, batch=16)
    return found["perplexity"]


def one(name: str, flags: str, args: argparse.Namespace) -> dict:
    out = args.out / name
    command = [sys.executable, "-m", "steppe.cli.main", "prune", args.model, *flags.split()]
    command += ["--calibration", args.calibration, "--samples", str(args.samples)]
    command += ["--window", str(args.window), "--out", str(out), "--json"]
    unit, before = matmul_seconds(), processor_seconds()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    record = json.loads(done.stdout)
    return {
        "flags": flags,
        "perplexity": measure(out, args),
        "seconds_pruning": record["seconds_pruning"],
        "seconds_by_part": record["seconds_by_part"],
        "processor_seconds": processor_seconds() - before,
        "matmul_2048_seconds": (unit + matmul_seconds()) / 2,
        "peak_memory_gib": record["peak_memory_bytes"] / 2**30,
        "sparsity_reached": record["sparsity_reached"],
        "precision": record["recipe"].get("fit", {}).get("precision", "float32"),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "fallbacks": record["fallbacks"],
        "held_out": [row["held_out"] for row in record["blocks"] if "held_out" in row],
    }


def processor_seconds() -> float:
    """Of all ended child processes, Python's start included; other work disturbs it less."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def official(path: Path | None) -> dict[str, dict]:
    """Run name (method-sparsity or method-structure) -> the official code's row."""
    if path is None:
        return {}
    rows = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    found = {}
    for row in csv.DictReader(rows):
        method = row["method"].replace("+", "_plus")
        nm = row["structure"].replace(":", "") if ":" in row["structure"] else None
        found[f"{method}-{nm or round(100 * float(row['sparsity']))}"] = row
    return found


def show(done: dict, theirs: dict[str, dict]) -> None:
    print(f"\ndense {done['dense']:.3f}\n")
    print("| run | perplexity | official | difference | seconds | official s | peak GiB |")
    print("|---|---|---|---|---|---|---|")
    for name, row in done["runs"].items():
        other = theirs.get(name)
        ours, seconds = row["perplexity"], row["seconds_pruning"]
        if other is None:
            cells = ["", "", f"{seconds:.1f}", ""]
        else:
            their = float(other["perplexity"])
            cells = [f"{their:.3f}", f"{ours / their - 1:+.2%}", f"{seconds:.1f}", other["seconds"]]
        print(f"| {name} | {ours:.3f} | {' | '.join(cells)} | {row['peak_memory_gib']:.2f} |")


if __name__ == "__main__":
    main()
