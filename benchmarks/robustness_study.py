"""ADMM against SAFE under corruptions, attacks and wrong labels, and how flat both are.

    python benchmarks/robustness_study.py --seed 0 --out runs/robustness &
    python benchmarks/robustness_study.py --seed 1 --out runs/robustness; wait
    python benchmarks/robustness_study.py --collect --out runs/robustness --record

Every network is a folder of ``steppe train`` and every measurement an entry of its
``evaluations.json`` (``steppe evaluate``), so it can be stopped and started again; what is done is
not done twice. ``--collect`` writes the record and prints the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from record_file import add_record
from study import Training, changed, collect, run

from steppe.recipes import FOLDER

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


def wanted(seed: int) -> Iterator[Training]:
    """Every network with that seed."""
    dense = f"dense-seed{seed}"
    landscape = MEASURED | {"landscape": {"limit": 250}}
    yield Training(dense, changed(RECIPES / "dense.yaml", seed), landscape)
    for sparsity in SPARSITIES:
        for method in ("admm", "safe"):
            recipe = changed(RECIPES / f"{method}.yaml", seed, method={"sparsity": sparsity})
            measured = landscape if sparsity == max(SPARSITIES) else MEASURED
            yield Training(f"{method}-{sparsity:g}-seed{seed}", recipe, measured, beside=dense)
    for rate in RATES:
        for method in ("admm", "safe"):
            noise = {"label_noise": {"rate": rate, "kind": "symmetric", "seed": seed}}
            recipe = changed(RECIPES / f"{method}-noise.yaml", seed, data=noise)
            yield Training(f"{method}-noise{rate:g}-seed{seed}", recipe)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--collect", action="store_true", help="of what is there")
    add_record(parser, "robustness")
    arguments = parser.parse_args()
    if arguments.collect:
        seeds = (0, 1)
        trainings = [training for seed in seeds for training in wanted(seed)]
        commands = [
            f"python benchmarks/robustness_study.py --seed {seed} --out {arguments.out}"
            for seed in seeds
        ]
        title = "ResNet-20 on CIFAR-10 images: ADMM beside SAFE"
        collect(arguments.out, arguments.record, trainings, title, commands)
    else:
        run(arguments.out, wanted(arguments.seed))


if __name__ == "__main__":
    main()
