"""Runs recipes over sparsities and seeds, and writes the table.

    python benchmarks/table.py src/steppe/recipes/cifar10-small/*.yaml \
        --sparsity 0.9 0.95 0.98 0.99 --seeds 0 1 --out runs/cifar10-small \
        --record benchmarks/records/cifar10-small.json

Every run is a folder of ``steppe train``, so it can be stopped and started again; what is done
is not done twice. The record holds every run's figures.

``--vary method.alpha 1e-5 1e-4 --held-out 2000`` chooses an option: every recipe with each of its
values, measured on training images held out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from steppe.experiment.experiment import Experiment, load_data
from steppe.experiment.recipe import parse, read
from steppe.experiment.varied import varied


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--sparsity", nargs="+", type=float, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    parser.add_argument("--vary", nargs="+", metavar="OPTION VALUE", default=[])
    parser.add_argument("--held-out", type=int, default=0)
    arguments = parser.parse_args()
    option, values = (arguments.vary or [""])[0], [float(v) for v in arguments.vary[1:]]
    held: dict[str, Any] = {}
    records: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for sparsity in arguments.sparsity:
            for path, value in itertools.product(arguments.recipes, values or [None]):
                plain = read(path).plain() | {"seed": seed}
                plain["method"] = plain["method"] | {"sparsity": sparsity}
                if arguments.held_out:
                    plain["data"] = plain["data"] | {"validation": arguments.held_out}
                    plain["evaluate"] = "validation"
                name, recipe = path.stem, parse(plain)
                if value is not None:
                    name, recipe = f"{name}-{value:g}", varied(recipe, option, value)
                key = json.dumps(plain["data"], sort_keys=True)
                if key not in held:
                    held[key] = load_data(recipe)
                folder = arguments.out / f"{name}-{sparsity:g}-seed{seed}"
                record, _, _ = Experiment(recipe, held[key], folder).train()
                record["name"] = name
                records.append(record)
                print(
                    name,
                    sparsity,
                    f"seed {seed}",
                    f"accuracy {record['sparse']['accuracy']:.4f}",
                    f"moved {record['projection_distance']:.3f}",
                    f"{record['seconds']:.0f} s",
                    flush=True,
                )
    arguments.record.parent.mkdir(parents=True, exist_ok=True)
    rows = [summary(record) for record in records]
    arguments.record.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(markdown(rows))


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """The figures of a run that the table and its reader need."""
    keys = ("name", "seed", "sparsity_asked", "sparsity_reached", "projection_distance", "seconds")
    row = {key: record[key] for key in keys}
    row["accuracy"] = record["sparse"]["accuracy"]
    row["accuracy_before_projection"] = record["before_projection"]["accuracy"]
    row["dense_accuracy_at_start"] = record["dense"].get("accuracy")
    row["versions"] = record["versions"]
    return row


def markdown(rows: list[dict[str, Any]]) -> str:
    """Mean accuracy over the seeds, with half their range, and median seconds."""
    cells: dict[tuple[str, float], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        cells[row["name"], row["sparsity_asked"]].append(row)
    levels = sorted({level for _, level in cells})
    lines = ["| method | " + " | ".join(f"{level:.0%}" for level in levels) + " | seconds |"]
    lines.append("|---" * (len(levels) + 2) + "|")
    for name in dict.fromkeys(row["name"] for row in rows):
        shown, seconds = [], []
        for level in levels:
            values = [100 * row["accuracy"] for row in cells[name, level]]
            spread = (max(values) - min(values)) / 2
            shown.append(f"{statistics.mean(values):.2f} ± {spread:.2f}")
            seconds += [row["seconds"] for row in cells[name, level]]
        lines.append(f"| {name} | {' | '.join(shown)} | {statistics.median(seconds):.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
