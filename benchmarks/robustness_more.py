"""What explains the robustness study: labels learnt by heart, no perturbation, a stronger attack.

    python benchmarks/robustness_more.py --out runs/robustness
        # benchmarks/records/robustness-more.json

Beside ``robustness_study.py`` and with its recipes: 640 images and 80 epochs with half of the
labels wrong; SAFE at 90 % with rho 0, its penalty kept; and PGD with 50 steps and 5 restarts
against the two networks at 90 % of seed 0 (trained where ``--out`` does not hold them yet). Every
network is a folder of ``steppe train``; what is done is not done twice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from bench_selection import processor
from robustness_study import RECIPES

from steppe.evaluation import ensure
from steppe.experiment.experiment import Experiment, load_data
from steppe.experiment.recipe import Recipe, parse, read

SEEDS = (0, 1)
FEW = {"images": 640, "epochs": 80, "rate": 0.5}
SPARSITY = 0.9
STRONGER = {"limit": 200, "steps": 50, "restarts": 5}


def changed(file: str, seed: int, **parts: dict[str, Any]) -> Recipe:
    """A recipe of the study with other values in some of its parts."""
    plain = read(RECIPES / f"{file}.yaml").plain() | {"seed": seed}
    for part, own in parts.items():
        plain[part] = plain[part] | own
    return parse(plain)


def wanted() -> Iterator[tuple[str, Recipe]]:
    """Folder and recipe of every network; the first two as in the study itself."""
    for method in ("admm", "safe"):
        own = {"sparsity": SPARSITY}
        yield f"{method}-{SPARSITY:g}-seed0", changed(method, 0, method=own)
    for seed in SEEDS:
        noise = {"rate": FEW["rate"], "kind": "symmetric", "seed": 0}
        few = {"train_size": FEW["images"], "label_noise": noise}
        for method in ("admm", "safe"):
            length = {"epochs": FEW["epochs"]}
            recipe = changed(f"{method}-noise", seed, data=few, train=length)
            yield f"{method}-few-seed{seed}", recipe
        own = {"sparsity": SPARSITY, "rho": 0.0}
        yield f"safe-rho0-{SPARSITY:g}-seed{seed}", changed("safe", seed, method=own)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--record", type=Path, default=Path("benchmarks/records/robustness-more.json")
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    networks = []
    for name, recipe in wanted():
        record, _, _ = Experiment(recipe, load_data(recipe), arguments.out / name, True).train()
        row = {"name": name, "seed": record["seed"], "accuracy": record["sparse"]["accuracy"]}
        row["label_noise"] = record.get("label_noise")
        if name.endswith(f"{SPARSITY:g}-seed0") and "rho0" not in name:
            row["attacks"] = ensure("attacks", str(arguments.out / name), STRONGER)
        networks.append(row)
        print(name, {k: v for k, v in row.items() if k != "name"}, flush=True)
    kept = {"processor": processor(), "versions": record["versions"], "networks": networks}
    arguments.record.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
