"""Pruned language models before and after `steppe recover`, on a text that is only measured.

    python benchmarks/llm/recover.py MODEL --calibration FILE --evaluate FILE --window 256 \
        --runs benchmarks/llm/recover.yaml --out runs/recover \
        --record benchmarks/records/recover.json [--only NAME ...]

Prunings and recoveries that are done are not repeated, and neither is a perplexity: started again,
it goes on. Several processes may share ``--out`` with other names in ``--only``; the record is made
of what is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench_selection import processor

from steppe.core.serialization import write_text
from steppe.llm.load import load
from steppe.llm.perplexity import perplexity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--evaluate", required=True)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--runs", type=Path, required=True, help="YAML: prunings and recoveries")
    parser.add_argument("--only", nargs="*", help="names of recoveries")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    args = parser.parse_args()
    runs = yaml.safe_load(args.runs.read_text())
    for name, (pruning, flags) in runs["recoveries"].items():
        if args.only and name not in args.only:
            continue
        pruned, out = args.out / pruning, args.out / f"{name}-recovered"
        steppe("prune", args.model, runs["prunings"][pruning], pruned, args)
        steppe("recover", pruned, f"--dense {args.model} {flags}", out, args)
        for folder in (pruned, out):
            measure(folder, args)
    write_text(args.record, json.dumps(collected(runs, args), indent=1) + "\n")


def steppe(verb: str, folder: str | Path, flags: str, out: Path, args: argparse.Namespace) -> None:
    """One command; a folder that is finished is left as it is."""
    if (out / "record.json").exists():
        return
    command = [sys.executable, "-m", "steppe.cli.main", verb, str(folder), *flags.split()]
    command += ["--calibration", args.calibration, "--window", str(args.window)]
    if "--scope whole" not in flags:
        command += ["--measure", "0"]
    command += ["--out", str(out), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{out.name}: {done.stderr}")


def measure(folder: Path, args: argparse.Namespace) -> float:
    """Perplexity of a folder's model, kept beside it."""
    kept = args.out / f"{folder.name}.json"
    if not kept.exists():
        model, tokenizer = load(str(folder), dtype="float32")
        found = perplexity(model, args.evaluate, window=args.window, tokenizer=tokenizer, batch=16)
        write_text(kept, json.dumps(found) + "\n")
    return float(json.loads(kept.read_text())["perplexity"])


def collected(runs: dict, args: argparse.Namespace) -> dict:
    """The rows of all recoveries that are measured."""
    rows = {}
    for name, (pruning, flags) in runs["recoveries"].items():
        out = args.out / f"{name}-recovered"
        if not (args.out / f"{out.name}.json").exists():
            continue
        record = json.loads((out / "record.json").read_text())
        rows[name] = {
            "pruning": runs["prunings"][pruning],
            "flags": flags,
            "pruned": measure(args.out / pruning, args),
            "recovered": measure(out, args),
            "sparsity_reached": record["sparsity_reached"],
            "held_out": judged(record),
            "seconds": record["seconds"],
            "peak_memory_gib": record["peak_memory_bytes"] / 2**30,
            "fallbacks": record["fallbacks"],
        }
    dense = measure(Path(args.model), args)
    return {"window": args.window, "processor": processor(), "dense": dense, "runs": rows}


def judged(record: dict) -> dict:
    """What windows that were not trained on said: of parts of blocks, or of the whole model."""
    if "early_stopping" in record:
        return record["early_stopping"]
    rows = [row for block in record["blocks"] for row in block["held_out"].values()]
    means = {key: sum(row[key] for row in rows) / len(rows) for key in ("start", "trained")}
    kept = [row["kept"] for row in rows].count("trained")
    return {"parts_kept": kept, "parts": len(rows), "mean_error": means}


if __name__ == "__main__":
    main()
