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

from steppe.cli.evaluations import FILE, keep, make
from steppe.cli.experiment import Experiment, load_data
from steppe.cli.recipe import Recipe, parse, read

RECIPES = Path(__file__).parents[1] / "recipes" / "robustness"
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
    held: dict[str, Any] = {}
    for name, recipe, measured in wanted(seed):
        key = json.dumps(recipe.plain()["data"], sort_keys=True)
        if key not in held:
            held[key] = load_data(recipe)
        record, _, _ = Experiment(recipe, held[key], out / name, quiet=True).train()
        print(name, f"{record['sparse']['accuracy']:.4f} {record['seconds']:.0f} s", flush=True)
        for on, given in MEASURED.items() if measured else ():
            evaluation = make(on, str(out / name), given, [])
            if on in results(out / name):
                continue
            result = evaluation.measure()
            print("   ", evaluation.line(result, record), flush=True)
            lost = keep(on, evaluation, result)
            assert lost is None, lost


def results(folder: Path) -> dict[str, Any]:
    """Measurement -> result, of a run's folder."""
    path = folder / FILE
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return {entry["on"]: entry["result"] for entry in held}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    run(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
