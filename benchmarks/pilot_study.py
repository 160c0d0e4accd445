"""PILoT and its rivals from scratch, each with a strength for each sparsity.

    python benchmarks/pilot_study.py --on digits      # LeNet-300-100, 150 epochs
    python benchmarks/pilot_study.py --on images      # ResNet-8, 16 x 16 CIFAR-10, 4,000 steps

Each arm's strength is chosen at each sparsity by itself, on training images held out, with other
seeds than those that are then measured on the test images. Every arm is cut at half of the run;
LRR and PILoT + LRR instead in five trainings of a fifth of the epochs. m * w has twice the plain
learning rate and delta 1.01, as in the paper. What the record holds already is not run again; name
another for that.
"""

from __future__ import annotations

import argparse
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch
from record_file import add_record, record_of, write_record

from steppe.core.errors import Diverged
from steppe.experiment.experiment import Experiment, load_data
from steppe.experiment.recipe import parse, read
from steppe.recipes import FOLDER

LONG = read(FOLDER / "long" / "cifar10-16px.yaml").plain()


@dataclass(frozen=True)
class Ground:
    """What the arms are compared on.

    Args:
        model: as in a recipe.
        data: as in a recipe.
        held_out: images, or their share, on which strengths are chosen.
        epochs: of every arm.
        train: other options of the training.
        l1_threshold: PILoT's K, about half of the L1 norm that the network starts with.
        sparsities: at which all is measured.
        searched: seeds with which strengths are chosen.
        seeds: with which arms are measured.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    held_out: float
    epochs: int
    train: dict[str, Any]
    l1_threshold: float
    sparsities: tuple[float, ...]
    searched: tuple[int, ...]
    seeds: tuple[int, ...]


GROUNDS = {
    "digits": Ground(
        model={"name": "lenet-300-100"},
        data={"name": "digits", "augment": None},
        held_out=0.2,
        epochs=150,
        train={"batch_size": 128},
        l1_threshold=1000.0,
        sparsities=(0.99, 0.95),
        searched=(100, 101),
        seeds=(0, 1, 2, 3, 4),
    ),
    "images": Ground(
        model=LONG["model"],
        data=LONG["data"],
        held_out=1000,
        epochs=52,  # of 78 steps
        train={"batch_size": 64, "mixed_precision": "no", "channels_last": True},
        l1_threshold=2300.0,
        sparsities=(0.98, 0.95, 0.9),
        searched=(100,),
        seeds=(0, 1, 2),
    ),
}
ALPHAS = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


@dataclass(frozen=True)
class Arm:
    """A method, and the option that decides how strongly it pulls."""

    method: str
    options: dict[str, Any]
    option: str = ""
    values: tuple[float, ...] = (0.0,)
    lr: float = 0.1


def product(name: str, **options: Any) -> Arm:
    cut = {} if "cycles" in options else {"at": 0.5}
    return Arm(name, cut | options, "method.alpha", ALPHAS, lr=0.2)


ARMS = {
    "magnitude": Arm("magnitude", {"at": 0.5}),
    "PILoT": product("pilot"),
    "PILoT, constant": product("pilot", decay="constant"),
    "PILoT, balanced": product("pilot", init_as="balanced"),
    "spred": product("spred"),
    "STR": Arm(
        "soft_threshold",
        {"at": 0.5, "start": -5.0},
        "train.weight_decay",
        (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    ),
    "LASSO": Arm("lasso", {"at": 0.5}, "method.alpha", (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)),
    "LRR": Arm("lrr", {"cycles": 5}),
    "PILoT + LRR": product("pilot", cycles=5, rewind="rate"),
}


def one(job: tuple[str, str, float, float, int, str]) -> float:
    """Accuracy of one run; 0 where the strength breaks the training."""
    torch.set_num_threads(1)
    on, name, value, sparsity, seed, part = job
    arm, ground = ARMS[name], GROUNDS[on]
    method: dict[str, Any] = {"name": arm.method, "sparsity": sparsity} | arm.options
    if arm.method == "pilot" and method.get("decay") != "constant":
        method["l1_threshold"] = ground.l1_threshold
    held_out = {"validation": ground.held_out if part == "validation" else 0}
    usual = {"epochs": ground.epochs, "lr": arm.lr, "weight_decay": 1e-4, "eval_every": 0}
    plain: dict[str, Any] = {
        "model": ground.model,
        "data": ground.data | held_out,
        "method": method,
        "train": ground.train | usual,
        "seed": seed,
        "device": "cpu",
    }
    if arm.option:
        section, option = arm.option.split(".")
        plain[section][option] = value
    recipe = parse(plain)
    try:
        record, _, _ = Experiment(recipe, load_data(recipe), None, True, part).train()
    except Diverged:
        return 0.0
    return float(record["sparse"]["accuracy"])


def measured(
    on: str, name: str, sparsity: float, earlier: dict[str, Any], pool: ProcessPoolExecutor
) -> dict[str, Any]:
    """An arm at its best strength; what an earlier record holds is not run again."""
    ground = GROUNDS[on]
    tried: dict[str, float] = {}
    for value in ARMS[name].values if ARMS[name].option else ():
        key = f"{value:g}"
        jobs = [(on, name, value, sparsity, seed, "validation") for seed in ground.searched]
        known = earlier.get("validation", {}).get(key)
        tried[key] = statistics.mean(pool.map(one, jobs)) if known is None else known
    best = max(tried, key=lambda key: tried[key]) if tried else ""
    tests = [(on, name, float(best or 0), sparsity, seed, "test") for seed in ground.seeds]
    same = bool(earlier) and (not best or earlier["strength"] == best)
    accuracies = earlier["accuracies"] if same else list(pool.map(one, tests))
    row = {"arm": name, "sparsity": sparsity, "accuracies": accuracies, "epochs": ground.epochs}
    return row | {"option": ARMS[name].option, "strength": best, "validation": tried}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--on", choices=list(GROUNDS), default="digits")
    parser.add_argument("--workers", type=int, default=2)
    add_record(parser, "pilot-{on}")
    arguments = parser.parse_args()
    record = record_of(arguments)
    rows: dict[tuple[str, float], dict[str, Any]] = {}
    if record.exists():
        rows = {(row["arm"], row["sparsity"]): row for row in json.loads(record.read_text())}
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        for sparsity in GROUNDS[arguments.on].sparsities:
            print(f"\n| at {sparsity:.0%} | accuracy | strength | validation |\n|---|---|---|---|")
            for name in ARMS:
                row = measured(arguments.on, name, sparsity, rows.get((name, sparsity), {}), pool)
                rows[name, sparsity] = row
                write_record(record, list(rows.values()))
                accuracies, tried = row["accuracies"], row["validation"]
                error = statistics.stdev(accuracies) / len(accuracies) ** 0.5
                print(
                    f"| {name} | {100 * statistics.mean(accuracies):.2f} ± {100 * error:.2f} | "
                    f"{row['strength']} | {', '.join(f'{100 * m:.1f}' for m in tried.values())} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
