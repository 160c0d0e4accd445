"""How much faster a network is whose channels were chosen for a latency.

    steppe latency resnet20 --batch 64 --out runs/channels/resnet20.json      # and resnet56
    python benchmarks/channel_speed.py --train --out runs/channels
    python benchmarks/channel_speed.py --out runs/channels

HALP and AdaSAP_L cut a pretrained CIFAR ResNet for 1.5 times its speed by a table of latencies, two
seeds each (``steppe train``, then ``steppe remove``); dense and small are then timed in turns, on
one thread with nothing else running, contiguous and channels last.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from record_file import add_record, write_record
from study import Training, changed, run

from steppe.core.speed import Speed
from steppe.engine.model_latency import in_turns
from steppe.experiment.recipe import read
from steppe.recipes import path_of
from steppe.removal.forward_timing import settle
from steppe.removal.plan import load_removed
from steppe.vision.models import build

RECIPE = path_of("adasap/cifar10-resnet-small")
NETWORKS = {"resnet20": 4, "resnet56": 2}  # epochs
SPEED_UP = 1.5
CUTS = {
    "sparsity": 1 - 1 / SPEED_UP,
    "score": "taylor_gate",
    "budget": "latency_knapsack",
    "warmup": 0.1,
    "pruned": 0.35,
    "every": 20,
}
METHODS: dict[str, dict[str, Any]] = {
    "halp": {"perturb": "none"},
    "adasap-l": {"rho_max": 0.25, "rho": 0.25},
}


def wanted(out: Path) -> Iterator[Training]:
    """Every network; the tables of latencies must be there."""
    for network, epochs in NETWORKS.items():
        weights = read(RECIPE).plain()["model"]["weights"].replace("resnet20", network)
        table = str(out / f"{network}.json")
        for name, options in METHODS.items():
            for seed in (0, 1):
                recipe = changed(
                    RECIPE,
                    seed,
                    model={"name": network, "weights": weights},
                    method=CUTS | options,
                    channels={"target": "latency", "table": table, "batch": 64, "round_to": 8},
                    train={"epochs": epochs},
                )
                where = f"{network}-{name}-{SPEED_UP:g}x-seed{seed}"
                yield Training(where, recipe, slim=True)


def speed(out: Path, path: Path) -> None:
    """Dense over small, batch 64, in turns, in both memory formats."""
    torch.set_num_threads(1)
    settle()
    ratios: dict[str, dict[str, float]] = {}
    layouts = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
    for where in (training.name for training in wanted(out)):
        network = where.partition("-")[0]
        dense = build(network, 10).eval()
        small = load_removed(out / f"{where}-slim", lambda name=network: build(name, 10))
        asked = json.loads((out / where / "record.json").read_text())["sparsity_reached"]
        ratios[where] = {"predicted": 1 / (1 - asked)}
        for name, layout in layouts.items():
            x = torch.randn(64, 3, 32, 32).to(memory_format=layout)
            models = [m.to(memory_format=layout) for m in (dense, small)]  # type: ignore[call-overload]
            with torch.no_grad():
                first, second = in_turns([lambda m=m, x=x: m(x) for m in models], turns=41)
            own = Speed.of(list(zip(first, second, strict=True)), "channels are removed")
            ratios[where] |= {f"{name}, dense ms": own.dense_ms, name: own.ratio}
            ratios[where] |= {f"{name}, at least": own.low}
        print(where, {k: round(v, 3) for k, v in ratios[where].items()}, flush=True)
    write_record(path, ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", action="store_true", help="what is then timed")
    add_record(parser, "channel-speed")
    arguments = parser.parse_args()
    if arguments.train:
        run(arguments.out, wanted(arguments.out), measure=False)
    else:
        speed(arguments.out, arguments.record)


if __name__ == "__main__":
    main()
