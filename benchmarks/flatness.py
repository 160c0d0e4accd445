"""Perturbations beside each other: accuracy, sharpness, and what a step costs.

    python benchmarks/flatness.py --data ../shared/data/cifar10-jpeg

GMP at 95 % and dense training under none, sam, functional_sam and msam: the digits network, and
ResNet-8 on 5,000 CIFAR-10 images of 16 x 16 pixels. On digits the radius is chosen on held-out
images. Sharpness is the rise of the training loss after one step of that length up the gradient,
masks held. A step's time is processor time, in one process, the arms taking turns, one thread. What
the record holds already is not done again; ``--only digits`` (images, time) does a part.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from record_file import add_record, write_record
from torch.nn import functional as F

import steppe
from steppe.engine.optim import lr_factor
from steppe.experiment.experiment import clean, seed_everything
from steppe.robustness.sharpness import one_step_sharpness
from steppe.vision.data import load
from steppe.vision.data.base import ImageData
from steppe.vision.loader import Loader
from steppe.vision.models import build

SECONDS = 4.0
RADII = {"sam": (0.1, 0.2, 0.4), "functional_sam": (0.1, 0.2, 0.4), "msam": (0.3, 1.0, 3.0)}
IMAGES = (("none", 0.0), ("sam", 0.1), ("functional_sam", 0.1), ("msam", 0.3), ("msam", 1.0))
NETWORKS: dict[str, dict[str, Any]] = {
    "digits": {"model": "lenet-300-100", "epochs": 60, "batch": 128, "rho": 0.2},
    "images": {
        "model": "resnet8",
        "options": {"stem_stride": 2},
        "epochs": 10,
        "batch": 64,
        "rho": 0.1,
    },
}
TIMED = {
    "lenet-300-100, digits, batch 128": ("lenet-300-100", {}, (1, 8, 8), 128),
    "ResNet-8, 16 x 16, batch 16": ("resnet8", {"stem_stride": 2}, (3, 16, 16), 16),
    "ResNet-8, 16 x 16, batch 64": ("resnet8", {"stem_stride": 2}, (3, 16, 16), 64),
    "ResNet-20, 32 x 32, batch 128": ("resnet20", {}, (3, 32, 32), 128),
}


def perturbed(method: steppe.Method, name: str, rho: float) -> steppe.Method:
    return method.replace(perturb="none" if name == "none" else {"name": name, "rho": rho})


def trained(
    which: str, data: ImageData, sparsity: float, name: str, rho: float, seed: int, part: str
) -> dict[str, Any]:
    """One training; accuracy on the part of the data, sharpness on 500 training images."""
    own = NETWORKS[which]
    plain = steppe.methods.gmp(sparsity, every=8) if sparsity else steppe.methods.dense()
    seed_everything(seed)
    model = build(own["model"], data.num_classes, data.shape, **own.get("options", {}))
    loader = Loader.of(data, "train", own["batch"], seed=seed)
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
    optimizer = torch.optim.SGD(model.parameters(), **options)
    total = own["epochs"] * len(loader)
    s = steppe.sparsify(model, optimizer, perturbed(plain, name, rho), total)
    factor = lr_factor("cosine", 0.0)

    def closure(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        outputs = model(x)
        return s.loss(F.cross_entropy(outputs, y), outputs=outputs)

    for epoch in range(own["epochs"]):
        for x, y in loader.epoch(epoch):
            optimizer.param_groups[0]["lr"] = 0.1 * factor(s.steps_done / total)
            s.step(lambda x=x, y=y: closure(x, y))
    masks = s.finish().masks
    few = [next(iter(Loader.of(data, "train", 500, seed=0).epoch(0)))]
    rise = one_step_sharpness(model, F.cross_entropy, few, rho=own["rho"], masks=masks)
    accuracy = clean(model.eval(), Loader.of(data, part, 500))["accuracy"]
    row = {"data": which, "sparsity": sparsity, "perturb": name, "rho": rho, "seed": seed}
    return row | {"part": part, "steps": total, "accuracy": accuracy, "sharpness": rise}


def runs(rows: list[dict[str, Any]], folder: str, only: str) -> Iterator[dict[str, Any]]:
    """Every training that the rows do not hold."""
    done = {
        tuple(r[k] for k in ("data", "sparsity", "perturb", "rho", "seed", "part")) for r in rows
    }

    def fresh(*key: Any) -> bool:
        return key not in done

    if only in ("", "digits"):
        data = load("digits", augment="none", validation=300)
        tried = [("none", 0.0), *((n, r) for n, radii in RADII.items() for r in radii)]
        for name, rho in tried:
            if fresh("digits", 0.95, name, rho, 100, "validation"):
                yield trained("digits", data, 0.95, name, rho, 100, "validation")
        data = load("digits", augment="none")
        for seed in range(3):
            for name, rho in chosen(rows).items():
                for sparsity in (0.95, 0.0):
                    if fresh("digits", sparsity, name, rho, seed, "test"):
                        yield trained("digits", data, sparsity, name, rho, seed, "test")
    if only in ("", "images"):
        data = load(folder, size=16, train_size=5000, test_size=2000)
        for seed in range(2):
            for name, rho in IMAGES:
                if fresh("images", 0.95, name, rho, seed, "test"):
                    yield trained("images", data, 0.95, name, rho, seed, "test")


def chosen(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of each perturbation the radius that was best on held-out digits, the smaller of equals."""
    held = [r for r in rows if r["part"] == "validation"]
    best = {"none": 0.0}
    for name in RADII:
        own = [r for r in held if r["perturb"] == name]
        best[name] = max(own, key=lambda r: (r["accuracy"], -r["rho"]))["rho"]
    return best


def turns(arms: dict[str, Callable[[], None]], at_least: int = 9) -> dict[str, list[float]]:
    """Seconds of processor time of each call, the arms taking turns for some seconds in all."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    begun = time.process_time()
    warm = False
    while len(seconds["none"]) < at_least or time.process_time() - begun < SECONDS:
        for name, work in arms.items():
            before = time.process_time()
            work()
            if warm:
                seconds[name].append(time.process_time() - before)
        warm = True
    return seconds


def times() -> list[dict[str, Any]]:
    """Processor time of a dense step under each perturbation over that of a plain one, medians."""
    rows = []
    for label, (network, options, shape, batch) in TIMED.items():
        x, y = torch.randn(batch, *shape), torch.randint(0, 10, (batch,))

        def arm(name: str) -> Callable[[], None]:
            torch.manual_seed(0)
            model = build(network, 10, shape, **options)  # noqa: B023
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
            method = perturbed(steppe.methods.dense(), name, 0.1)
            s = steppe.sparsify(model, optimizer, method, 10**9)

            def closure() -> torch.Tensor:
                outputs = model(x)  # noqa: B023
                return s.loss(F.cross_entropy(outputs, y), outputs=outputs)  # noqa: B023

            return lambda: float(s.step(closure)) and None

        arms = {name: arm(name) for name in ("none", *RADII)}
        seconds = turns(arms)
        ratios = {
            name: statistics.median(a / b for a, b in zip(own, seconds["none"], strict=True))
            for name, own in seconds.items()
        }
        plain = statistics.median(seconds["none"])
        rows.append({"network": label, "plain_seconds": plain, "over_plain": ratios})
        print(label, f"{1000 * plain:.1f} ms", {n: round(r, 3) for n, r in ratios.items()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/data/cifar10-jpeg")
    parser.add_argument("--only", choices=("digits", "images", "time"), default="")
    add_record(parser, "flatness")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine = f"{platform.processor() or platform.machine()}, 1 thread"
    record: dict[str, Any] = {"machine": machine, "runs": [], "time": []}
    if arguments.record.is_file():
        record = json.loads(arguments.record.read_text(encoding="utf-8"))

    def write() -> None:
        write_record(arguments.record, record)

    if arguments.only in ("", "time"):
        record["time"] = times()
        write()
    for row in runs(record["runs"], arguments.data, arguments.only):
        record["runs"].append(row)
        write()
        print(row, flush=True)


if __name__ == "__main__":
    main()
