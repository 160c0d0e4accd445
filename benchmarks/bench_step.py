"""What a step costs, against named peers in the same run.

    python benchmarks/bench_step.py

Interleaved repeats, medians of the paired ratios:
- a SAFE step against two plain forward+backward passes and one optimiser step;
- the SAM step against pytorch-optimizer's SAM;
- the trainer against a bare PyTorch loop over the same loader.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import torch
from record_file import add_record, write_record
from torch import nn
from torch.nn import functional as F

import steppe
from steppe.engine.trainer import TrainConfig, Trainer, make_accelerator
from steppe.vision.augment.crop_flip import CropFlip
from steppe.vision.data import Split
from steppe.vision.loader import Loader
from steppe.vision.models import build


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = build("resnet20", 10)
    options: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
    return model, torch.optim.SGD(model.parameters(), **options)


def paired(arms: dict[str, Callable[[], None]], repeats: int, each: int) -> dict[str, list[float]]:
    """Seconds per call of each arm, ``repeats`` times, taking turns."""
    for work in arms.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(repeats):
        # the order changes, so that a drift of the machine falls on all arms
        names = list(arms)[repeat % len(arms) :] + list(arms)[: repeat % len(arms)]
        for name in names:
            begun = time.perf_counter()
            for _ in range(each):
                arms[name]()
            times[name].append((time.perf_counter() - begun) / each)
    return times


def ratio(times: dict[str, list[float]], ours: str, peer: str) -> float:
    return statistics.median(a / b for a, b in zip(times[ours], times[peer], strict=True))


def step_arms(batch: int) -> dict[str, Callable[[], None]]:
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))

    def plain() -> Callable[[], None]:
        model, optimizer = network()

        def work() -> None:
            for _ in range(2):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
            optimizer.step()

        return work

    def ours(method: steppe.Method) -> Callable[[], None]:
        model, optimizer = network()
        sparsifier = steppe.sparsify(model, optimizer, method, 10**9)

        def work() -> None:
            sparsifier.step(lambda: F.cross_entropy(model(x), y))

        return work

    def peer() -> Callable[[], None]:
        from pytorch_optimizer import SAM

        model, _ = network()
        optimizer = SAM(
            model.parameters(), torch.optim.SGD, rho=0.1, lr=0.01, momentum=0.9, weight_decay=1e-4
        )

        def work() -> None:
            F.cross_entropy(model(x), y).backward()
            optimizer.first_step(zero_grad=True)
            F.cross_entropy(model(x), y).backward()
            optimizer.second_step(zero_grad=True)

        return work

    return {
        "two plain passes and a step": plain(),
        "SAFE step": ours(steppe.methods.make("safe", sparsity=0.95)),
        "SAM step": ours(steppe.methods.make("dense", rho=0.1)),
        "pytorch-optimizer SAM step": peer(),
    }


def trainer_arms(batch: int, steps: int) -> dict[str, Callable[[], None]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch * steps, 3, 32, 32), generator=generator).to(torch.uint8)
    split = Split(images, torch.randint(0, 10, (batch * steps,), generator=generator))
    options: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "shuffle": True}
    loader = Loader(split, batch, augment=CropFlip(4, True), drop_last=True, **options)

    def bare() -> None:
        model, optimizer = network()
        for x, y in loader.epoch(0):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    def ours() -> None:
        model, _ = network()
        options = {"momentum": 0.9, "weight_decay": 1e-4}
        config = TrainConfig(epochs=1, lr=0.01, optimizer_options=options, bn_batches=0)
        method = steppe.methods.make("dense")
        accelerator = make_accelerator(config, "cpu", ".")
        Trainer(model, loader, lambda m: {}, method, config, accelerator, quiet=True).fit()

    return {"bare loop": bare, "trainer": ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, default=128)
    add_record(parser, "step")
    arguments = parser.parse_args()
    # medians hide the one step in 32 that updates the dual; its share is measured and added
    steps = paired(step_arms(arguments.batch), arguments.repeats, 4)
    epochs = paired(trainer_arms(arguments.batch, 8), arguments.repeats, 1)
    dual = dual_update()
    safe = ratio(steps, "SAFE step", "two plain passes and a step")
    per_step = dual / 32 / statistics.median(steps["two plain passes and a step"])
    result = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "seconds": {k: statistics.median(v) for k, v in (steps | epochs).items()},
        "safe_step_over_two_passes": safe + per_step,
        "dual_update_seconds": dual,
        "dual_update_share_of_a_step": per_step,
        "sam_step_over_pytorch_optimizer": ratio(steps, "SAM step", "pytorch-optimizer SAM step"),
        "trainer_throughput_over_bare_loop": 1 / ratio(epochs, "trainer", "bare loop"),
    }
    print(json.dumps(result, indent=1))
    write_record(arguments.record, result)


def dual_update() -> float:
    """Seconds of z <- P(x + u), u <- u + x - z on ResNet-20, median of 31."""
    model, optimizer = network()
    method = steppe.methods.make("safe", sparsity=0.95, interval=1)
    sparsifier = steppe.sparsify(model, optimizer, method, 10**9)
    from steppe.core.protocols import Coupling
    from steppe.core.step_context import StepContext

    assert isinstance(method.coupling, Coupling)
    context = StepContext(
        step=0,
        total=10,
        sparsity=0.95,
        due=True,
        weights=sparsifier.weights,
        project=sparsifier.selector,
    )
    context.state = method.coupling.init(context)
    times = []
    for _ in range(31):
        begun = time.perf_counter()
        method.coupling.after_step(context)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


if __name__ == "__main__":
    main()
