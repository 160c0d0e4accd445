"""ADMM against SAFE under corruptions, attacks and wrong labels, and how flat both are.

    python benchmarks/robustness_study.py --seed 0 --out runs/robustness &
    python benchmarks/robustness_study.py --seed 1 --out runs/robustness; wait
    python benchmarks/robustness_study.py --collect --out runs/robustness \
        --record benchmarks/records/robustness.json

Every network is a folder of ``steppe train`` and every measurement an entry of its
``evaluations.json`` (``steppe evaluate``), so it can be stopped and started again; what is done is
not done twice. ``--collect`` writes the record and prints the tables.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steppe.evaluation import ensure
from steppe.experiment.experiment import Experiment, load_data
from steppe.experiment.recipe import Recipe, parse, read
from steppe.recipes import FOLDER
from steppe.report.html import write_report
from steppe.report.markdown import data, markdown
from steppe.report.record import read_records

RECIPES = FOLDER / "robustness"
SPARSITIES = (0.9, 0.95, 0.98, 0.99)
RATES = (0.25, 0.5, 0.75)
# 1,000 and 500 of the test images: the error of one network's accuracy under one corruption is 1.5
# points; the same images for all, so that differences between networks are surer
MEASURED: dict[str, dict[str, Any]] = {
    "corruptions": {"severities": "3,5", "limit": 1000},
    "attacks": {"limit": 500},
    "sharpness": {"measures": "one_step,ball,top_eigenvalue", "radius": 0.1, "limit": 250},
}


def wanted(seed: int) -> Iterator[tuple[str, Recipe, bool]]:
    """Folder, recipe, and whether it is measured, of everything with that seed."""

    def one(file: str, **changes: dict[str, Any]) -> Recipe:
        plain = read(RECIPES / f"{file}.yaml").plain() | {"seed": seed}
        for part, own in changes.items():
            plain[part] = plain[part] | own
        return parse(plain)

    yield f"dense-seed{seed}", one("dense"), True
    for sparsity in SPARSITIES:
        for method in ("admm", "safe"):
            recipe = one(method, method={"sparsity": sparsity})
            yield f"{method}-{sparsity:g}-seed{seed}", recipe, True
    for rate in RATES:
        for method in ("admm", "safe"):
            noise = {"label_noise": {"rate": rate, "kind": "symmetric", "seed": seed}}
            yield (
                f"{method}-noise{rate:g}-seed{seed}",
                one(f"{method}-noise", data=noise),
                False,
            )


def run(out: Path, seed: int) -> None:
    """Train and measure everything with that seed."""
    held: dict[str, Any] = {}
    for name, recipe, measured in wanted(seed):
        key = json.dumps(recipe.plain()["data"], sort_keys=True)
        if key not in held:
            held[key] = load_data(recipe)
        record, _, _ = Experiment(recipe, held[key], out / name, quiet=True).train()
        print(name, f"{record['sparse']['accuracy']:.4f} {record['seconds']:.0f} s", flush=True)
        if not measured:
            continue
        for on, given in MEASURED.items():
            found = ensure(on, str(out / name), given)
            print("   ", on, {k: v for k, v in found.items() if isinstance(v, float)}, flush=True)
        if record["method"] != "dense":
            ensure("clean", str(out / name), {"beside": str(out / f"dense-seed{seed}")})
        if record["method"] == "dense" or record["sparsity_asked"] == max(SPARSITIES):
            ensure("landscape", str(out / name), {"limit": 250})


def collect(out: Path, record: Path, seeds: list[int]) -> None:
    """The record, the tables and the report of every network that is there."""
    names = [name for seed in seeds for name, _, _ in wanted(seed)]
    missing = [name for name in names if not (out / name / "record.json").exists()]
    folders = [out / name for name in names if name not in missing]
    records = read_records(folders)
    commands = [
        f"python benchmarks/robustness_study.py --seed {seed} --out {out}" for seed in seeds
    ]
    title = "ResNet-20 on CIFAR-10 images: ADMM beside SAFE"
    write_report(out / "report.html", title=title, records=records, commands=commands)
    held = data(records, title=title, commands=commands)
    held["commands"] = commands  # those of each network are in the report
    held["missing"] = missing
    held["networks"] = [
        {
            "name": folder.name,
            "accuracy": r["sparse"]["accuracy"],
            "label_noise": r.get("label_noise"),
        }
        | {on: _few(r["evaluations"][on]) for on in MEASURED if on in r.get("evaluations", {})}
        for folder, r in zip(folders, records, strict=True)
    ]
    record.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    print(markdown(records, title=title, commands=commands))
    print("missing:", missing)


def _few(result: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in result.items() if not isinstance(v, str)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--collect", action="store_true", help="of what is there")
    parser.add_argument("--record", type=Path, default=Path("benchmarks/records/robustness.json"))
    arguments = parser.parse_args()
    if arguments.collect:
        collect(arguments.out, arguments.record, [0, 1])
    else:
        run(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
