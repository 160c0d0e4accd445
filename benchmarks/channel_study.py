"""AdaSAP beside magnitude and Taylor at equal parameters: clean, corrupted, flat.

    python benchmarks/channel_study.py --search --out runs/channels
    python benchmarks/channel_study.py --out runs/channels &
    python benchmarks/channel_study.py --out runs/channels; wait      # one process for each core
    python benchmarks/channel_study.py --collect --out runs/channels --record

A dense ResNet-14 of 16 x 16 images is trained for each seed (26 epochs); from there each method
prunes in 13 epochs with the phases of AdaSAP's paper (recipe ``long/channels-16px``): a ninth of
the run without a cut, all cuts in a ninetieth, then training. Methods differ in score and
perturbation only. AdaSAP runs with its paper's radii and with one that ``--search`` chose on
held-out images, as SAM's was. Every network is a folder of ``steppe train`` and, beside it, one of
``steppe remove``, which is what is measured; what was cut off goes on, nothing is done twice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from record_file import add_record, record_of, write_record
from study import Training, changed, run

from steppe.experiment.experiment import Experiment, load_data
from steppe.recipes import path_of

RECIPE = path_of("long/channels-16px")
SPARSITIES = (0.6, 0.4)
SEEDS = (0, 1)
SEARCHED = 100  # the seed of the search
CUTS = {"sparsity": 0.4, "warmup": 10 / 90, "pruned": 11 / 90, "every": 10}
RADII = {"adasap": (0.1, 0.25, 0.5, 1.0), "taylor-sam": (0.02, 0.05, 0.1, 0.2)}
CHOSEN = {"adasap": 0.1, "taylor-sam": 0.05}
IMAGES = 2000  # corrupted ones, of each of 19 kinds at 3 of 5 severities
MEASURED: dict[str, dict[str, Any]] = {
    "corruptions": {"severities": "1,3,5", "limit": IMAGES},
    "sharpness": {"measures": "one_step", "radius": 0.1, "limit": 1000},  # the paper's equation 9
}


def adasap(radius: float | None, **options: Any) -> dict[str, Any]:
    """AdaSAP_P, with its paper's radii or another largest one."""
    radii = {} if radius is None else {"rho_max": radius, "rho": radius}
    return {"name": "adasap"} | CUTS | radii | options


def baseline(score: str, radius: float = 0.0) -> dict[str, Any]:
    """AdaSAP's cuts by another score, with SAM's one radius or none."""
    sam = {"name": "sam", "rho": radius} if radius else "none"
    return adasap(None, score=score, perturb=sam)


def methods() -> dict[str, dict[str, Any]]:
    """Each method's options but for the sparsity."""
    return {
        "magnitude": baseline("l2"),
        "taylor": baseline("taylor"),
        "taylor-sam": baseline("taylor", CHOSEN["taylor-sam"]),
        "adasap-paper": adasap(None),
        "adasap": adasap(CHOSEN["adasap"]),
        "adasap-taylor": adasap(CHOSEN["adasap"], score="taylor"),
    }


def dense(seed: int, **parts: Any) -> Training:
    """The network that every method starts from."""
    train = {"epochs": 26, "lr": 0.1}
    recipe = changed(RECIPE, seed, method={"name": "dense"}, train=train, **parts)
    return Training(f"dense-seed{seed}", recipe, MEASURED)


def pruned(out: Path, name: str, method: dict[str, Any], seed: int, **parts: Any) -> Training:
    """A network that starts from the dense one of that seed."""
    weights = {"weights": str(out / f"dense-seed{seed}")}
    recipe = changed(RECIPE, seed, method=method, model=weights, **parts)
    return Training(name, recipe, MEASURED, slim=True, after=f"dense-seed{seed}")


def cut(out: Path, sparsity: float) -> Iterator[Training]:
    """Every network of one sparsity."""
    for seed in SEEDS:
        for name, method in methods().items():
            where = f"{name}-{sparsity:g}-seed{seed}"
            yield pruned(out, where, method | {"sparsity": sparsity}, seed)


def every(out: Path) -> Iterator[Training]:
    """The study, and what Table 7 asks."""
    for seed in SEEDS:
        yield dense(seed)
    yield from cut(out, SPARSITIES[0])
    yield from around_the_cut(out)
    for sparsity in SPARSITIES[1:]:
        yield from cut(out, sparsity)


def around_the_cut(out: Path) -> Iterator[Training]:
    """The paper's Table 7: sharpness before the first cut and after the last, none trained after.

    The learning rate is constant, so that the first half of the second run is the first run. The
    many small cuts take channels by twos, so that the last one meets the target.
    """
    cuts = {"warmup": 0.5, "pruned": 0.999, "every": 20}
    for seed in SEEDS:
        for name, method in (("taylor", baseline("taylor")), ("adasap", adasap(None))):
            for when, sparsity, epochs in (("before", 0.0, 1), ("after", SPARSITIES[0], 2)):
                own = method | cuts | {"sparsity": sparsity}
                train = {"epochs": epochs, "lr_schedule": "constant"}
                yield replace(
                    pruned(
                        out,
                        f"{name}-{when}-seed{seed}",
                        own,
                        seed,
                        train=train,
                        channels={"target": "parameters", "round_to": 2},
                    ),
                    slim=False,
                    measured={"sharpness": MEASURED["sharpness"]},
                )


def search(out: Path, path: Path) -> None:
    """Radii at 60 % in a third of the epochs, on training images that no network has seen."""
    held_out = {"data": {"validation": 5000}}
    run(out, [dense(SEARCHED, **held_out)], measure=False)
    makers = {"adasap": adasap, "taylor-sam": partial(baseline, "taylor")}
    rows = []
    for name, radii in RADII.items():
        for radius in radii:
            method = makers[name](radius) | {"sparsity": 0.6}
            parts = held_out | {"train": {"epochs": 4}}
            where = f"search-{name}-{radius:g}"
            recipe = pruned(out, where, method, SEARCHED, **parts).recipe
            data = load_data(recipe)
            record, _, _ = Experiment(recipe, data, out / where, True, "validation").train()
            accuracy = record["sparse"]["accuracy"]
            rows.append({"name": name, "radius": radius, "validation": accuracy})
            print(where, accuracy, flush=True)
    write_record(path, rows)


def collect(out: Path, path: Path) -> None:
    """The record: every network that is there, with what was measured of it."""
    rows = []
    for training in every(out):
        evaluations = out / training.measured_folder / "evaluations.json"
        if not evaluations.exists():
            print("missing:", training.name)
            continue
        record = json.loads((out / training.name / "record.json").read_text())
        rows.append(
            {
                "name": training.name,
                "accuracy": record["sparse"]["accuracy"],
                "removed": record.get("removed", {}),
                "seconds": record["seconds"],
                "versions": record["versions"],
            }
            | {e["on"]: e["result"] for e in json.loads(evaluations.read_text())}
        )
    write_record(path, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--search", action="store_true", help="radii, on held-out images")
    parser.add_argument("--collect", action="store_true", help="of what is there")
    add_record(parser, "channel-{part}")
    arguments = parser.parse_args()
    arguments.part = "search" if arguments.search else "study"
    out, record = arguments.out.resolve(), record_of(arguments)
    if arguments.collect:
        collect(out, record)
    elif arguments.search:
        search(out, record)
    else:
        run(out, every(out))


if __name__ == "__main__":
    main()
