"""The claims of SAFE at the length of its paper: 60,000 steps from scratch, then flat and robust?

    python benchmarks/long_study.py --out runs/long &
    python benchmarks/long_study.py --out runs/long; wait     # one process for each core
    python benchmarks/long_study.py --out runs/long --measure
    python benchmarks/long_study.py --out runs/long --collect --record

The network and the images are small (recipe ``long/cifar10-16px``); learning rate, radius,
interval, penalty and number of steps are the paper's. What was cut off goes on where it was, and
nothing is done twice. ``--collect`` writes the record and prints the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from record_file import add_record
from study import Training, changed, collect, run

from steppe.recipes import FOLDER

RECIPE = FOLDER / "long" / "cifar10-16px.yaml"
SEEDS = (0, 1)
SPARSITIES = (0.95, 0.98)
# the paper's penalties: SAFE's grows as a cosine, ADMM's is constant. With the automatic one both
# pull alike, and the perturbation is all that tells them apart.
METHODS: dict[str, dict[str, Any]] = {
    "safe": {},
    "admm": {"name": "admm", "penalty": 1e-3, "interval": 32},
    "gmp": {"name": "gmp"},
    "gmp-sam": {"name": "gmp", "perturb": {"name": "sam", "rho": 0.1}},
    "safe-auto": {"name": "safe", "rho": 0.1, "penalty": "auto", "interval": "auto"},
    "admm-auto": {"name": "admm", "penalty": "auto", "interval": "auto"},
}
WITH_WRONG_LABELS = ("safe-auto", "admm-auto")
NOISE = 0.5
MEASURED: dict[str, dict[str, Any]] = {
    "corruptions": {"severities": "3,5", "limit": 2000},
    "attacks": {"limit": 1000},
    "sharpness": {"measures": "one_step,ball,top_eigenvalue", "radius": 0.1, "limit": 500},
    "landscape": {"limit": 500},
}


def wanted() -> Iterator[Training]:
    """Every network, the surest comparisons first."""
    for seed in SEEDS:
        dense = f"dense-seed{seed}"
        yield Training(dense, changed(RECIPE, seed, method={"name": "dense"}), MEASURED)
    for method, options in METHODS.items():
        for sparsity in SPARSITIES:
            for seed in SEEDS:
                recipe = changed(RECIPE, seed, method=options | {"sparsity": sparsity})
                name = f"{method}-{sparsity:g}-seed{seed}"
                yield Training(name, recipe, MEASURED, beside=f"dense-seed{seed}")
        if method in WITH_WRONG_LABELS:
            yield from _with_wrong_labels(method, options)


def _with_wrong_labels(method: str, options: dict[str, Any]) -> Iterator[Training]:
    for seed in SEEDS:
        noise = {"label_noise": {"rate": NOISE, "kind": "symmetric", "seed": seed}}
        recipe = changed(RECIPE, seed, method=options | {"sparsity": SPARSITIES[0]}, data=noise)
        yield Training(f"{method}-noise{NOISE:g}-seed{seed}", recipe)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="*", help="names like this, e.g. 'safe-*'")
    parser.add_argument("--measure", action="store_true", help="corruptions, attacks, sharpness")
    parser.add_argument("--collect", action="store_true", help="of what is there")
    add_record(parser, "long")
    arguments = parser.parse_args()
    trainings = [t for t in wanted() if fnmatch(t.name, arguments.only)]
    if arguments.collect:
        command = "python benchmarks/long_study.py --out runs/long"
        commands = [command, f"{command} --measure"]
        title = "ResNet-8 on CIFAR-10 images of 16 x 16, 60,000 steps from scratch"
        collect(arguments.out, arguments.record, trainings, title, commands)
    else:
        run(arguments.out, trainings, measure=arguments.measure)


if __name__ == "__main__":
    main()
