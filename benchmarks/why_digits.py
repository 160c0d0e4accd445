"""Why is GMP level with SAFE on digits? ``python benchmarks/why_digits.py``

The demo's network and data at 95 and 99 %, three seeds, in a plain loop. For each arm: test
accuracy; how far the last projection moved the weights; how much it cost in accuracy; and how
early the support is decided: the share of the finally kept weights that were already among the
largest d at 10, 25 and 50 % of the run.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from typing import Any

import torch
from record_file import add_record, write_record
from torch.nn import functional as F

import steppe
from steppe.core.selection import count, keep_largest
from steppe.engine.optim import lr_factor
from steppe.experiment.experiment import clean, seed_everything
from steppe.vision.data import load
from steppe.vision.loader import Loader
from steppe.vision.models import build

EPOCHS = 60
ADMM: dict[str, Any] = {"penalty": 0.1, "interval": 32}
SAFE: dict[str, Any] = {"penalty": 0.3, "interval": 32}
ARMS: dict[str, tuple[float, str, dict[str, Any]]] = {
    "ADMM, constant 0.1": (0.2, "admm", ADMM),
    "ADMM, constant 0.3": (0.1, "admm", SAFE),
    "ADMM, cosine 0.3": (0.1, "admm", SAFE | {"penalty_schedule": "cosine"}),
    "SAFE, constant 0.3": (0.1, "safe", SAFE | {"rho": 0.4, "penalty_schedule": "constant"}),
    "SAFE, cosine 0.3": (0.1, "safe", SAFE | {"rho": 0.4}),
    "SAFE, cosine 0.3, rho 0.1": (0.1, "safe", SAFE | {"rho": 0.1}),
    "GMP (demo)": (0.1, "gmp", {"every": 8}),
    "GMP with SAM, rho 0.4": (0.1, "gmp", {"every": 8}),
    "GMP to the end": (0.1, "gmp", {"every": 8, "end": 1.0}),
}


def one(arm: str, sparsity: float, seed: int) -> dict[str, float]:
    lr, name, options = ARMS[arm]
    method = steppe.methods.make(name, sparsity=sparsity, **options)
    if "with SAM" in arm:
        method = method.replace(perturb={"name": "sam", "rho": 0.4, "on": "all"})
    data = load("digits", augment="none")
    seed_everything(seed)
    model = build("lenet-300-100", data.num_classes, data.shape)
    loader = Loader.of(data, "train", 128, seed=seed)
    test = Loader.of(data, "test", 500)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    total = EPOCHS * len(loader)
    sparsifier = steppe.sparsify(model, optimizer, method, total)
    prune = count(sparsity, sparsifier.selector.num_units)
    factor = lr_factor("cosine", 0.0)
    seen = {}
    for epoch in range(EPOCHS):
        for share in (0.1, 0.25, 0.5):
            if epoch == round(share * EPOCHS):
                seen[share] = keep_largest(sparsifier.weights, prune)
        for x, y in loader.epoch(epoch):
            optimizer.param_groups[0]["lr"] = lr * factor(sparsifier.steps_done / total)
            sparsifier.step(lambda x=x, y=y: F.cross_entropy(model(x), y))
    before = clean(model.eval(), test)["accuracy"]
    done = sparsifier.finish()
    kept = sum(int(m.sum()) for m in done.masks.values())
    early = {
        f"kept_at_{share}": sum(int((m[n] & done.masks[n]).sum()) for n in m) / kept
        for share, m in seen.items()
    }
    accuracy = clean(model.eval(), test)["accuracy"]
    return {"accuracy": accuracy, "lost": before - accuracy, "moved": done.distance, **early}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add_record(parser, "why_digits")
    record = parser.parse_args().record
    torch.set_num_threads(1)
    rows = []
    for sparsity in (0.95, 0.99):
        print(f"\n| at {sparsity:.0%} | accuracy | lost | moved | 10 % | 25 % | 50 % |")
        print("|---|---|---|---|---|---|---|")
        for arm in ARMS:
            sums: dict[str, list[float]] = defaultdict(list)
            for seed in range(3):
                for key, value in one(arm, sparsity, seed).items():
                    sums[key].append(value)
            row = {key: statistics.mean(values) for key, values in sums.items()}
            error = statistics.stdev(sums["accuracy"]) / 3**0.5
            shares = " | ".join(f"{row[f'kept_at_{s}']:.2f}" for s in (0.1, 0.25, 0.5))
            print(
                f"| {arm} | {100 * row['accuracy']:.2f} ± {100 * error:.2f} | "
                f"{100 * row['lost']:.2f} | {row['moved']:.4f} | {shares} |",
                flush=True,
            )
            rows.append({"arm": arm, "sparsity": sparsity, "standard_error": error} | row)
    write_record(record, rows)


if __name__ == "__main__":
    main()
