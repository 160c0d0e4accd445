"""What MLPrune's compensation saves before any retraining: ``python benchmarks/compensation.py``

The pretrained ResNet-20 is cut once, and measured on the first 2,000 test images as it is: the
weights of least magnitude go, or those of MLPrune, without and with the weights that stay making up
for them. The Fisher matrix's factors are those of 30 batches of 128 training images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from record_file import add_record, write_record
from torch.nn import functional as F

import steppe
from steppe.core.mask import apply_masks
from steppe.core.protocols import Tensors
from steppe.engine.step.selector import Selector
from steppe.experiment.experiment import build_model, clean, load_data
from steppe.experiment.recipe import parse, read
from steppe.recipes import path_of
from steppe.vision.loader import Loader
from steppe.vision.models import logits

STEPS = 30
LEVELS = (0.3, 0.5, 0.6, 0.7, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=path_of("pilot-small/magnitude"))
    add_record(parser, "compensation")
    arguments = parser.parse_args()
    plain = read(arguments.recipe).plain()
    plain["data"] = plain["data"] | {"test_size": 2000, "augment": None}
    recipe = parse(plain)
    data = load_data(recipe)
    model = build_model(recipe, data).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    gather = steppe.sparsify(
        model, optimizer, steppe.methods.make("mlprune", sparsity=0.5, at=1.0), STEPS + 1
    )
    batches = Loader.of(data, "train", 128, seed=0).epoch(0)
    for _, (x, y) in zip(range(STEPS), batches, strict=False):
        gather.step(lambda x=x, y=y: F.cross_entropy(logits(model, x), y))
    layers, statistics = list(gather.selector.layers.values()), gather.selector.statistics
    weights, start = gather.weights, {n: w.clone() for n, w in gather.weights.items()}
    test = Loader.of(data, "test", 500)

    def cut(method: steppe.Method, compensate: bool) -> float:
        for name, weight in start.items():
            weights[name].copy_(weight)
        selector = Selector(method, layers, statistics)
        masks: Tensors = selector(weights, method.sparsity)
        if compensate:
            selector.compensate(weights, masks)
        else:
            apply_masks(weights, masks)
        return clean(model, test)["accuracy"]

    rows: list[dict[str, Any]] = []
    print("| zeros | magnitude | MLPrune | and compensation | damping 0.01 | and compensation |")
    print("|---|---|---|---|---|---|")
    for level in LEVELS:
        found = [cut(steppe.methods.make("magnitude", sparsity=level), False)]
        for damping in (0.1, 0.01):
            method = steppe.methods.make("mlprune", sparsity=level, damping=damping)
            found += [cut(method, compensate) for compensate in (False, True)]
        print(f"| {level:.0%} | {' | '.join(f'{100 * a:.1f}' for a in found)} |", flush=True)
        rows.append({"sparsity": level, "accuracies": found})
    write_record(arguments.record, rows)


if __name__ == "__main__":
    main()
