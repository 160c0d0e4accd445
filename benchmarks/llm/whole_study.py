"""A language model pruned as a whole, and block by block, at equal tokens: what each is worth.

    python benchmarks/llm/whole_study.py MODEL --text train.txt --evaluate test.txt \\
        --runs benchmarks/llm/whole_study.yaml --out runs/whole \\
        --record benchmarks/records/whole-study.json [--only NAME ...] [--sparsities 0.9] \\
        [--seeds 0 1] [--steps 1024]

What calibrates and trains comes from ``--text`` or from the model itself; ``--evaluate`` is only
measured. Runs that are in the record, or done in ``--out``, are not repeated, one that was cut off
goes on, and several processes may share both: each adds its runs to the record as they end. A
record with other settings or texts is refused.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml
from bench_selection import processor
from study import claimed

from steppe.core.serialization import write_text
from steppe.llm.load import load
from steppe.llm.perplexity import perplexity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--text", required=True, help="that block by block calibrates with")
    parser.add_argument("--trained-on", help="of whole trainings, where it is another text")
    parser.add_argument("--evaluate", required=True)
    parser.add_argument("--runs", type=Path, required=True, help="YAML: settings")
    parser.add_argument("--only", nargs="*", help="names of settings")
    parser.add_argument("--sparsities", type=float, nargs="*", default=[0.9, 0.7, 0.8, 0.95])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--steps", type=int, default=1024)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    args = parser.parse_args()
    runs = yaml.safe_load(args.runs.read_text())
    chosen = args.only or [*runs["pruned"], *runs["trained"]]
    for seed, sparsity, name in product(args.seeds, args.sparsities, chosen):
        folder = folder_of(name, sparsity, seed, steps_of(name, runs, args), args.out)
        if folder.name in known(args):
            continue
        run(name, sparsity, seed, runs, args)
        with (args.out / ".record.claim").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            write_text(args.record, json.dumps(collected(runs, args), indent=1) + "\n")


def known(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What the record holds already: run -> its row."""
    if not args.record.exists():
        return {}
    record = json.loads(args.record.read_text())
    wanted, used = asked(args), {row["name"] for row in record["runs"]}
    for given in (wanted["settings"], record["settings"]):  # new names may come
        for part in ("pruned", "trained"):
            given[part] = {n: flags for n, flags in given[part].items() if n in used}
    for key, value in wanted.items():
        if record[key] != value:
            raise SystemExit(f"{args.record} is of another {key}: take another --record and --out")
    return {row["run"]: row for row in record["runs"]}


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """What all runs of a record have in common."""
    return {
        "settings": yaml.safe_load(args.runs.read_text()),
        "text": Path(args.text).name,
        "trained_on": (args.trained_on or args.text).replace(f"{Path(args.text).parent}/", ""),
    }


def steps_of(name: str, runs: dict[str, Any], args: argparse.Namespace) -> int | None:
    """Steps of a training; a pruning has none."""
    return None if name in runs["pruned"] else args.steps


def folder_of(name: str, sparsity: float, seed: int, steps: int | None, out: Path) -> Path:
    """Where a run lies: a dense one has no sparsity, a pruning no steps."""
    parts = [name] + ([] if name == "dense" else [f"{100 * sparsity:g}"])
    parts += [] if steps is None else [str(steps)]
    return out / "-".join([*parts, f"seed{seed}"])


def run(
    name: str, sparsity: float, seed: int, runs: dict[str, Any], args: argparse.Namespace
) -> Path:
    """The folder of one run, made where it is not there and nobody is at it; then measured."""
    if name in runs["pruned"]:
        folder = folder_of(name, sparsity, seed, None, args.out)
        command = ["prune", args.model, *runs["pruned"][name].split(), "--calibration", args.text]
        command += ["--sparsity", str(sparsity), "--window", str(runs["window"]), "--measure", "0"]
    else:
        start, flags = runs["trained"][name]
        model = args.model
        if start is not None:
            model = str(run(start, sparsity, seed, runs, args))
            if not (Path(model) / "record.json").exists():
                raise SystemExit(f"{model} is being made by another process: start again later")
        folder = folder_of(name, sparsity, seed, args.steps, args.out)
        tokens = args.steps * runs["window"] * runs["batch_size"]
        command = [
            "train",
            model,
            *flags.split(),
            "--data",
            args.trained_on or args.text,
            "--tokens",
            str(tokens),
        ]
        command += ["--window", str(runs["window"]), "--batch-size", str(runs["batch_size"])]
        command += ["--precision", runs["precision"], "--set", "train.parts=4"]
        command += [] if name == "dense" else ["--sparsity", str(sparsity)]
    with claimed(folder) as mine:
        if mine:
            steppe(command, seed, folder)
            print(folder.name, f"{measured(folder, args, runs['window']):.2f}", flush=True)
    return folder


def steppe(command: list[str], seed: int, folder: Path) -> None:
    """One command; a folder that is finished is left as it is."""
    whole = [sys.executable, "-m", "steppe.cli.main", *command, "--seed", str(seed)]
    whole += ["--device", "cpu", "--out", str(folder), "--quiet"]
    done = subprocess.run(whole, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{folder.name}: {done.stderr}")


def measured(folder: Path, args: argparse.Namespace, window: int) -> float:
    """Perplexity of a folder's model on the text that is only measured, kept beside it."""
    kept = args.out / f"{folder.name}.json"
    if not kept.exists():
        model, tokenizer = load(str(folder), dtype="float32")
        found = perplexity(model, args.evaluate, window=window, tokenizer=tokenizer, batch=16)
        write_text(kept, json.dumps(found | {"processor": processor()}) + "\n")
    return float(json.loads(kept.read_text())["perplexity"])


def collected(runs: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Every run that is in the record, or measured here."""
    rows = known(args)
    for kept in args.out.glob("*.json"):
        folder = args.out / kept.stem
        if not (folder / "record.json").exists() or folder.name in rows:
            continue
        record = json.loads((folder / "record.json").read_text())
        found, trained = json.loads(kept.read_text()), "train" in record["recipe"]
        rows[folder.name] = {
            "run": folder.name,
            "name": kept.stem.partition("-")[0],
            "method": record["method"],
            "sparsity": record["sparsity_reached"],
            "asked": record["sparsity_asked"],
            "seed": record["seed"],
            "steps": int(kept.stem.split("-")[-2]) if trained else None,
            "perplexity": found["perplexity"],
            "seconds": record["seconds"],
            "peak_memory_gib": record["peak_memory_bytes"] / 2**30,
            "processor": found["processor"],
        }
    dense = measured(Path(args.model), args, runs["window"])
    return {
        **asked(args),
        "dense": dense,
        "runs": [rows[name] for name in sorted(rows)],
    }


if __name__ == "__main__":
    main()
