"""How far the automatic penalty falls from a tuned one, on held-out images.

    python benchmarks/penalty_study.py --out runs/penalty.jsonl --only 'digits/400/*'
    python benchmarks/penalty_study.py --out runs/penalty.jsonl --collect --record

SAFE and ADMM with ``penalty="auto"``, GMP, SAFE with every penalty and interval of a grid, and with
a penalty that its residuals balance, on
digits and on CIFAR-10 images of 16 x 16, from scratch. The accuracy is that of training images
which are held out; the test images play no part. What is in the file is not done again, so that
the study goes on after an interruption; several processes may take different parts with ``--only``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import balanced_admm  # noqa: F401 (registers its part)
import torch
from record_file import add_record, write_record

from steppe.core.errors import Diverged
from steppe.engine.trainer import Trainer, make_accelerator
from steppe.engine.training_task import Classification
from steppe.experiment.ending import clean
from steppe.experiment.experiment import build_model, load_data
from steppe.experiment.recipe import Recipe, parse
from steppe.removal.forward_timing import processor
from steppe.vision.data import ImageData
from steppe.vision.loader import Loader
from steppe.vision.models import logits

SPARSITIES = (0.9, 0.95, 0.98, 0.99)
SEEDS = (0, 1)
TASKS: dict[str, dict[str, Any]] = {
    "digits": {
        "model": {"name": "lenet-300-100"},
        "data": {"name": "digits", "validation": 0.3, "augment": "none"},
        "train": {"batch_size": 128},
    },
    "cifar": {
        "model": {"name": "resnet8", "options": {"stem_stride": 2}},
        "data": {
            "name": "../shared/data/cifar10-jpeg",
            "size": 16,
            "train_size": 16_000,
            "validation": 0.2,
            "cache": "runs/.cache",
        },
        "train": {"batch_size": 64, "bn_batches": 50},
    },
}
# an epoch has 7 steps, and 200
EPOCHS = {"digits": {400: 57, 4000: 571}, "cifar": {400: 2, 4000: 20}}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "lr": 0.1, "weight_decay": 1e-4},
    "adamw": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 1e-4},
}
METHODS: dict[str, dict[str, Any]] = {
    "gmp": {"name": "gmp", "end": 0.75},
    "admm-auto": {"name": "admm"},
    "safe-auto": {"name": "safe"},
    "safe-balanced": {"name": "safe", "coupling": {"name": "balanced_admm"}},
} | {
    f"safe-{penalty:g}-{interval}": {"name": "safe", "penalty": penalty, "interval": interval}
    for interval in (32, 4)
    for penalty in (0.1, 0.03, 0.3, 0.01, 1.0)
}


def wanted() -> Iterator[tuple[str, Recipe]]:
    """Name -> recipe: task, steps, optimiser, method, sparsity, seed."""
    for task, optimizer, method, sparsity, seed in itertools.product(
        TASKS, OPTIMIZERS, METHODS, SPARSITIES, SEEDS
    ):
        plain = TASKS[task]
        for steps, epochs in EPOCHS[task].items():
            yield (
                f"{task}/{steps}/{optimizer}/{method}/{sparsity:g}/{seed}",
                parse(
                    {
                        "model": plain["model"],
                        "data": plain["data"],
                        "method": METHODS[method] | {"sparsity": sparsity},
                        "train": plain["train"]
                        | OPTIMIZERS[optimizer]
                        | {"epochs": epochs, "eval_every": 0},
                        "seed": seed,
                        "device": "cpu",
                    }
                ),
            )


def accuracy(recipe: Recipe, data: ImageData) -> float:
    """On the held-out images, after training and the last projection."""
    method, model = recipe.build_method(), build_model(recipe, data)
    loader = Loader.of(data, "train", recipe.train.batch_size, seed=recipe.seed, device="cpu")
    held_out = Loader.of(data, "validation", 500, device="cpu")
    config = recipe.train.config()
    accelerator = make_accelerator(config, "cpu", ".")
    trainer = Trainer(
        model,
        loader,
        lambda m: clean(m, held_out),
        method,
        config,
        accelerator,
        task=Classification(run=logits),
        quiet=True,
    )
    return trainer.fit().after["accuracy"]


def run(out: Path, only: str) -> None:
    """Everything that is not in the file yet."""
    out.parent.mkdir(parents=True, exist_ok=True)
    loaded: dict[str, ImageData] = {}
    for name, recipe in wanted():
        if not fnmatch(name, only) or name in rows(out):
            continue
        task = name.partition("/")[0]
        if task not in loaded:
            loaded[task] = load_data(recipe)
        try:
            reached = accuracy(recipe, loaded[task])
        except Diverged:  # a candidate that does not work
            reached = 0.0
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "accuracy": reached}) + "\n")
        print(name, f"{reached:.4f}", flush=True)


def rows(out: Path) -> dict[str, float]:
    """Name -> accuracy, of what is in the file."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    return {row["name"]: row["accuracy"] for row in map(json.loads, lines)}


OTHERS = ("gmp", "admm-auto", "safe-auto", "safe-balanced")


def table(done: dict[str, float]) -> list[dict[str, Any]]:
    """Per task, steps, optimiser and sparsity: the methods' means and the best of the grid, in %.

    Of the seeds those that the most of the grid have, as the best of few is no tuned penalty; a
    method is in the row where it has them.
    """
    cells: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for name, reached in done.items():
        task, steps, optimizer, method, sparsity, seed = name.split("/")
        cells[f"{task}/{steps}/{optimizer}/{sparsity}"][method][seed] = 100 * reached
    made = []
    for cell in sorted(cells):
        seeds = _seeds(cells[cell])
        means = {
            method: statistics.mean(of_seed[seed] for seed in seeds)
            for method, of_seed in cells[cell].items()
            if seeds and seeds <= of_seed.keys()
        }
        grid = {m: mean for m, mean in means.items() if m not in OTHERS}
        if "safe-auto" not in means:
            continue
        best = max(grid, key=lambda m: grid[m], default=None)
        made.append(
            {"cell": cell, "seeds": len(seeds), "tried": len(grid)}
            | {m: round(means[m], 2) for m in OTHERS if m in means}
            | ({"tuned": round(grid[best], 2), "tuned as": best} if best else {})
        )
    return made


def _seeds(cell: dict[str, dict[str, float]]) -> set[str]:
    """Seeds of the automatic SAFE: those that most of the grid have, and of these as many."""
    own = sorted(cell.get("safe-auto", {}))
    subsets = [set(s) for n in range(1, len(own) + 1) for s in itertools.combinations(own, n)]
    grid = [of_seed.keys() for method, of_seed in cell.items() if method not in OTHERS]
    return max(subsets, key=lambda s: (sum(s <= has for has in grid), len(s)), default=set())


def collect(out: Path, record: Path) -> None:
    """The record, and the table on the screen."""
    done = rows(out)
    made = table(done)
    accuracy = dict(sorted(done.items()))
    write_record(record, {"processor": processor(), "table": made, "accuracy": accuracy})
    columns = ["cell", "seeds", *OTHERS, "tuned", "tuned as", "tried"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in made:
        print("| " + " | ".join(str(row.get(column, "")) for column in columns) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/penalty.jsonl"))
    parser.add_argument("--only", default="*", help="names like this, e.g. 'digits/400/sgd/*'")
    parser.add_argument("--collect", action="store_true", help="of what is there")
    add_record(parser, "penalty")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.collect:
        collect(arguments.out, arguments.record)
    else:
        run(arguments.out, arguments.only)


if __name__ == "__main__":
    main()
