"""AdaSAP beside magnitude, Taylor and HALP on channels that go: clean, corrupted, flat, fast.

    python benchmarks/channel_study.py --seed 0 --out runs/channels &
    python benchmarks/channel_study.py --seed 1 --out runs/channels; wait
    python benchmarks/channel_study.py --collect --out runs/channels \
        --record benchmarks/records/channels.json

Every network is a folder of ``steppe train`` and, beside it, one of ``steppe remove``, which is
what is measured (``steppe evaluate``); what is done is not done twice. All methods prune at the
same steps by the same schedule; they differ in the score, the budget and the perturbation.
``--search`` chose the radii. ``--speed`` times the networks that were cut for a latency, on one
thread with nothing else running, contiguous and channels last.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from steppe.cli.main import main as steppe_command
from steppe.core.speed import Speed
from steppe.engine.model_latency import in_turns
from steppe.evaluation import ensure
from steppe.experiment.experiment import Experiment, load_data
from steppe.experiment.recipe import Recipe, parse, read
from steppe.recipes import path_of
from steppe.removal.forward_timing import settle
from steppe.removal.plan import load_removed
from steppe.vision.models import build

RECIPE = path_of("adasap/cifar10-resnet-small")
NETWORKS = {"resnet20": 4, "resnet56": 2}  # epochs
SPARSITIES = (0.4, 0.6)
SPEED_UP = 1.5
WARMUP, PRUNED, EVERY = 0.1, 0.35, 20
SAM, RHO_MAX, RHO = 0.05, 0.25, 0.25
IMAGES = {"resnet20": 1000, "resnet56": 150}  # corrupted ones, of each of 19 kinds at 5 severities
SHARPNESS = {"measures": "one_step", "radius": 0.1, "limit": 1000}  # the paper's equation 9


def adasap(rho_max: float = RHO_MAX, rho: float = RHO, until: float = PRUNED) -> dict[str, Any]:
    """Adaptive radii until all is pruned, one radius after that."""
    first = {"name": "adasap", "rho_min": 0.01, "rho_max": rho_max}
    return {"name": "phased", "phases": [[until, first], [1.0, {"name": "asam", "rho": rho}]]}


PERTURB: dict[str, Any] = {
    "magnitude": "none",
    "taylor": "none",
    "taylor-sam": {"name": "sam", "rho": SAM},
    "adasap": adasap(),
    "halp": "none",
    "adasap-l": adasap(),
}
SCORE: dict[str, Any] = {
    "magnitude": "l2",
    "taylor": {"name": "taylor", "variant": "squared"},
    "taylor-sam": {"name": "taylor", "variant": "squared"},
    "adasap": "l2",
    "halp": "taylor_gate",
    "adasap-l": "taylor_gate",
}


def method(name: str, sparsity: float, **changes: Any) -> dict[str, Any]:
    """The seven parts of a method."""
    budget = "latency_knapsack" if name in ("halp", "adasap-l") else "pooled"
    schedule = {"name": "exponential", "start": WARMUP, "end": PRUNED, "every": EVERY}
    return {
        "name": name,
        "score": SCORE[name],
        "structure": "channel",
        "budget": {"name": budget, "sparsity": sparsity},
        "schedule": schedule,
        "coupling": "hard_mask",
        "perturb": PERTURB[name],
    } | changes


def recipe(network: str, seed: int, own: dict[str, Any], **parts: dict[str, Any]) -> Recipe:
    """The small recipe with another network and method."""
    plain = read(RECIPE).plain() | {"seed": seed, "method": own}
    weights = plain["model"]["weights"].replace("resnet20", network)
    plain["model"] = plain["model"] | {"name": network, "weights": weights}
    plain["train"] = plain["train"] | {"epochs": NETWORKS[network]}
    for part, changes in parts.items():
        plain[part] = plain[part] | changes
    return parse(plain)


def wanted(seed: int, out: Path) -> Iterator[tuple[str, Recipe]]:
    """Folder and recipe of every network with that seed."""
    for network in NETWORKS:
        for sparsity in SPARSITIES:
            for name in ("magnitude", "taylor", "taylor-sam", "adasap"):
                where = f"{network}-{name}-{sparsity:g}-seed{seed}"
                yield where, recipe(network, seed, method(name, sparsity))
        table = out / f"{network}.json"
        if table.exists():
            channels = {"target": "latency", "table": str(table), "batch": 64, "round_to": 8}
            for name in ("halp", "adasap-l"):
                own = method(name, 1 - 1 / SPEED_UP)
                where = f"{network}-{name}-{SPEED_UP:g}x-seed{seed}"
                yield where, recipe(network, seed, own, channels=channels)


def sharpness(seed: int) -> Iterator[tuple[str, Recipe]]:
    """Pairs for the paper's Table 7: before the first cut and after the last, no training after.

    The learning rate is constant, so that the first half of the pruned run is the other run.
    """
    train = {"epochs": 1, "lr_schedule": "constant"}
    for network in NETWORKS:
        for name in ("taylor", "adasap"):
            perturb = adasap(until=0.999) if name == "adasap" else "none"
            dense = {"name": "dense", "budget": {"name": "pooled", "sparsity": 0.0}}
            before = dense | {"perturb": perturb}
            where = f"{network}-{name}-before-seed{seed}"
            yield where, recipe(network, seed, before, train=train)
            for sparsity in SPARSITIES:
                late = {"name": "exponential", "start": 0.5, "end": 1.0, "every": EVERY}
                own = method(name, sparsity, schedule=late, perturb=perturb)
                where = f"{network}-{name}-after{sparsity:g}-seed{seed}"
                yield where, recipe(network, seed, own, train=train | {"epochs": 2})


def removed(run: Path, out: Path) -> None:
    """``steppe remove``."""
    try:
        steppe_command(["remove", str(run), "--out", str(out), "--device", "cpu", "--quiet"])
    except SystemExit as ended:
        if ended.code:
            raise


def run(out: Path, seed: int) -> None:
    """Train, remove and measure everything with that seed."""
    data = load_data(read(RECIPE))
    for where, made in wanted(seed, out):
        record, _, _ = Experiment(made, data, out / where, quiet=True).train()
        slim = out / f"{where}-slim"
        if not (slim / "record.json").exists():
            removed(out / where, slim)
        print(where, f"{record['sparse']['accuracy']:.4f} {record['seconds']:.0f} s", flush=True)
        images = {"limit": IMAGES[where.partition("-")[0]]}
        for on, given in (("corruptions", images), ("sharpness", SHARPNESS)):
            found = ensure(on, str(slim), given)
            print("   ", on, {k: v for k, v in found.items() if isinstance(v, float)}, flush=True)
    for where, made in sharpness(seed):
        Experiment(made, data, out / where, quiet=True).train()
        found = ensure("sharpness", str(out / where), SHARPNESS)
        print(where, {k: v for k, v in found.items() if isinstance(v, float)}, flush=True)


def search(out: Path) -> None:
    """Radii, on 2,000 training images held out, ResNet-20 at 60 %, two epochs."""
    parts = {"data": {"validation": 2000}, "train": {"epochs": 2}}
    tried: dict[str, Any] = {f"adasap {r:g}": adasap(r, r) for r in (0.1, 0.25, 0.5)}
    tried |= {f"sam {r:g}": {"name": "sam", "rho": r} for r in (0.02, 0.05, 0.1)}
    data = load_data(recipe("resnet20", 9, method("adasap", 0.6), **parts))
    for label, perturb in tried.items():
        own = method("adasap" if "adasap" in label else "taylor", 0.6, perturb=perturb)
        made = recipe("resnet20", 9, own, **parts)
        folder = out / f"search-{label.replace(' ', '-')}"
        record, _, _ = Experiment(made, data, folder, quiet=True, part="validation").train()
        print(label, record["sparse"]["accuracy"], flush=True)


def speed(out: Path, path: Path) -> None:
    """Dense over small, batch 64, in turns, in both memory formats."""
    torch.set_num_threads(1)
    settle()
    found: dict[str, dict[str, float]] = {}
    layouts = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
    wanted_by_latency = [w for s in (0, 1) for w, _ in wanted(s, out) if f"-{SPEED_UP:g}x-" in w]
    for where in wanted_by_latency:
        network = where.partition("-")[0]
        dense = build(network, 10).eval()
        small = load_removed(out / f"{where}-slim", lambda name=network: build(name, 10))
        asked = json.loads((out / where / "record.json").read_text())["sparsity_reached"]
        found[where] = {"predicted": 1 / (1 - asked)}
        for name, layout in layouts.items():
            x = torch.randn(64, 3, 32, 32).to(memory_format=layout)
            models = [m.to(memory_format=layout) for m in (dense, small)]  # type: ignore[call-overload]
            with torch.no_grad():
                first, second = in_turns([lambda m=m, x=x: m(x) for m in models], turns=41)
            own = Speed.of(list(zip(first, second, strict=True)), "channels are removed")
            found[where] |= {f"{name}, dense ms": own.dense_ms, name: own.ratio}
            found[where] |= {f"{name}, at least": own.low}
        print(where, {k: round(v, 3) for k, v in found[where].items()}, flush=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def collect(out: Path, path: Path) -> None:
    """The record and a table."""
    found = []
    for seed in (0, 1):
        for where, _ in [*wanted(seed, out), *sharpness(seed)]:
            slim = out / f"{where}-slim"
            place = slim if slim.exists() else out / where
            kept = place / "evaluations.json"
            if not kept.exists():
                print("missing:", where)
                continue
            record = json.loads((out / where / "record.json").read_text())
            held = {e["on"]: e["result"] for e in json.loads(kept.read_text())}
            found.append(
                {
                    "name": where,
                    "accuracy": record["sparse"]["accuracy"],
                    "removed": record.get("removed", {}),
                    "seconds": record["seconds"],
                    "versions": record["versions"],
                }
                | held
            )
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        groups.setdefault(one["name"].rpartition("-seed")[0], []).append(one)
    for name, held in groups.items():
        print(name, *(_cell(held, *key) for key in KEYS), sep=" | ")


KEYS = (
    ("accuracy",),
    ("corruptions", "mean_15"),
    ("corruptions", "mean_extra"),
    ("corruptions", "r_c_15"),
    ("sharpness", "one_step"),
    ("seconds",),
)


def _cell(held: list[dict[str, Any]], *path: str) -> str:
    values = []
    for one in held:
        value: Any = one
        for key in path:
            value = (value or {}).get(key)
        if value is not None:
            values.append(float(value))
    if not values:
        return "-"
    return f"{statistics.mean(values):.4g} ± {(max(values) - min(values)) / 2:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--search", action="store_true", help="radii, on held-out images")
    parser.add_argument("--collect", action="store_true", help="of what is there")
    parser.add_argument("--speed", action="store_true", help="of the networks cut for a latency")
    parser.add_argument("--record", type=Path, default=Path("benchmarks/records/channels.json"))
    arguments = parser.parse_args()
    if arguments.collect:
        collect(arguments.out, arguments.record)
    elif arguments.speed:
        speed(arguments.out, arguments.record)
    elif arguments.search:
        search(arguments.out)
    else:
        run(arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
