"""Detectors of blood cells: HALP and AdaSAP at equal multiply-adds, clean, corrupted, timed.

    python benchmarks/detection_study.py --data voc:BCCD --out runs/detection &
    python benchmarks/detection_study.py --data voc:BCCD --out runs/detection; wait
    python benchmarks/detection_study.py --data voc:BCCD --out runs/detection --time
    python benchmarks/detection_study.py --data voc:BCCD --out runs/detection --collect --record

One process for each core. A dense SSD is trained for each seed by the recipe ``detection/bccd``;
from there each method takes away 40 and 60 % of the multiply-adds by its own recipe. Every network
is a folder of ``steppe train`` and, beside it, one of ``steppe remove``, which is what is measured;
what was cut off goes on, nothing is done twice. ``--time`` wants a machine on which nothing else
runs: it measures the layers of the dense detector (``steppe latency``), predicts each smaller one
from them, and times dense and small in turns (``steppe evaluate --on latency``), each in a process
of its own, where the report finds it too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from record_file import add_record, write_record
from study import Training, changed, run

from steppe.evaluation import earlier
from steppe.experiment.tasks import TASKS
from steppe.recipes import path_of
from steppe.report.html import write_report
from steppe.report.record import read_records

DENSE = "detection/bccd"
METHODS = {
    "halp": "detection/bccd-halp",
    "adasap": "detection/bccd-adasap",
    "adasap-knapsack": "detection/bccd-adasap-knapsack",
}
SPARSITIES = (0.4, 0.6)
TABLE = "latency.json"
MULTIPLE = 4  # as the recipes round widths
MEANS = ("mean_run", "mean_15", "r_c_15", "mean_19", "r_c_19")


@dataclass(frozen=True)
class Study:
    """What is trained and measured.

    Args:
        out: the folder of all runs.
        data: as in a recipe.
        seeds: of every network.
        measured: evaluation -> its flags.
        share: of the epochs of the recipes; less than 1 to try the study out.
    """

    out: Path
    data: str
    seeds: Sequence[int]
    measured: dict[str, dict[str, Any]]
    share: float = 1.0

    def every(self) -> Iterator[Training]:
        """All networks: the dense ones, then each sparsity."""
        for seed in self.seeds:
            yield self._training(f"dense-seed{seed}", DENSE, seed)
        for sparsity in SPARSITIES:
            for name, recipe in METHODS.items():
                for seed in self.seeds:
                    dense = f"dense-seed{seed}"
                    parts = {
                        "method": {"sparsity": sparsity},
                        "model": {"weights": str(self.out / dense)},
                    }
                    where = f"{name}-{sparsity:g}-seed{seed}"
                    one = self._training(where, recipe, seed, **parts)
                    yield replace(one, slim=True, after=dense)

    def _training(self, name: str, recipe: str, seed: int, **parts: dict[str, Any]) -> Training:
        made = changed(path_of(recipe), seed, data={"name": self.data}, **parts)
        if self.share < 1:
            task = TASKS[made.task]
            made = task.load(task.shortened(made.plain(), self.share), name, None)
        return Training(name, made, self.measured)


def of_times(out: Path, training: Training, threads: int) -> dict[str, Any]:
    """The flags of ``--on latency`` with which a network of the study is timed."""
    dense, table = out / str(training.after), out / TABLE
    return {"beside": str(dense), "table": str(table), "threads": threads}


def timed(out: Path, trainings: Sequence[Training], threads: int) -> None:
    """Milliseconds of one image, dense and small: by the table of layers, and in turns.

    Each in a process of its own: after the many layers of a table, or another network, memory lies
    otherwise than in a process that does nothing else.
    """
    small = [t for t in trainings if t.slim and (out / t.measured_folder / "record.json").exists()]
    for training in small:
        folder, given = out / training.measured_folder, of_times(out, training, threads)
        if training is small[0]:  # the layers of all dense detectors are alike
            apart(
                *("latency", given["beside"], "--out", given["table"], "--batch", "1"),
                *("--threads", str(threads), "--round-to", str(MULTIPLE)),
            )
        if earlier("latency", str(folder), given) is None:
            flags = [word for key, value in given.items() for word in (f"--{key}", str(value))]
            apart("evaluate", str(folder), "--on", "latency", *flags, "--quiet")
        result = earlier("latency", str(folder), given)
        assert result is not None, "it was measured"
        speed = result["measured"]
        ms = [*result["predicted_ms"], speed["dense_ms"], speed["sparse_ms"]]
        print(training.name, *(f"{value:.2f}" for value in ms), "ms", flush=True)


def apart(*words: str) -> None:
    """A command of ``steppe`` in a process of its own.

    Raises:
        CalledProcessError: it failed.
    """
    subprocess.run([sys.executable, "-m", "steppe", *words], check=True)


def collect(out: Path, path: Path, trainings: Sequence[Training], threads: int) -> None:
    """The record and the report: every network that is there, with what was measured of it."""
    rows, folders = [], []
    for training in trainings:
        folder = out / training.measured_folder
        found = measured_of(out, training, threads)
        if found is None:
            print("missing:", training.name)
            continue
        folders.append(folder)
        rows.append(row(out, training, found))
    write_record(path, rows)
    title = "Detectors of blood cells: HALP and AdaSAP"
    write_report(out / "report.html", title=title, records=read_records(folders))
    for one in rows:
        figures = {"mAP@0.5": one["map50"], "mAP": one["map"]}
        figures |= {
            key: value for key in MEANS if (value := one["corruptions"].get(key)) is not None
        }
        print(one["name"], *(f"{key} {value:.3f}" for key, value in figures.items()))


def measured_of(out: Path, training: Training, threads: int) -> dict[str, Any] | None:
    """Evaluation -> its result with the study's own flags; None where one of the quality lacks.

    In a folder there may be others, which somebody measured with other flags.
    """
    folder = out / training.measured_folder
    if not (folder / "record.json").exists():
        return None
    found = {on: earlier(on, str(folder), flags) for on, flags in training.measured.items()}
    if any(result is None for result in found.values()):
        return None
    if training.slim:
        times = earlier("latency", str(folder), of_times(out, training, threads))
        if times is None:
            print("not timed, or with another table:", training.name)
        found["latency"] = times or {}
    return found


def row(out: Path, training: Training, measured: dict[str, Any]) -> dict[str, Any]:
    """A network in the record."""
    record = json.loads((out / training.name / "record.json").read_text(encoding="utf-8"))
    folder = out / training.measured_folder
    removed = {}
    if training.slim:
        smaller = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        keys = ("parameters", "flops", "widths", "error")
        removed = {key: smaller["removed"][key] for key in keys}
    found = {key: record["sparse"][key] for key in ("map50", "map50_11", "map", "classes")}
    return {
        "name": training.name,
        **found,
        "sparsity_asked": record["sparsity_asked"],
        "sparsity_reached": record["sparsity_reached"],
        "removed": removed,
        "times": measured.get("latency", {}),
        "corruptions": _numbers(measured["corruptions"]),
        "epochs": record["recipe"]["train"]["epochs"],
        "seed": record["seed"],
        "seconds": record["seconds"],
        "versions": record["versions"],
    }


def _numbers(result: dict[str, Any]) -> dict[str, Any]:
    """Without the images."""
    return {key: value for key, value in result.items() if key != "examples"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", required=True, help="the blood cells, e.g. voc:BCCD")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--only", default="*", help="names like this, e.g. 'halp-0.4-*'")
    parser.add_argument("--kinds", help="corruptions, comma-separated; all 19 if none are given")
    parser.add_argument("--severities", default="1,3,5")
    parser.add_argument("--images", type=int, help="of the test images, corrupted; all")
    parser.add_argument("--share", type=float, default=1.0, help="of the epochs, to try it out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--train", action="store_true", help="and do not measure")
    parser.add_argument("--time", action="store_true", help="alone on the machine")
    parser.add_argument("--collect", action="store_true", help="of what is there")
    add_record(parser, "detection-study")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    given = {"corruptions": arguments.kinds, "limit": arguments.images}
    corruptions = {key: value for key, value in given.items() if value is not None}
    corruptions["severities"] = arguments.severities
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    out = arguments.out.resolve()
    data = arguments.data
    kind, _, where = data.partition(":")
    if where and Path(where).exists():  # so that another folder may be worked from later
        data = f"{kind}:{Path(where).resolve()}"
    measured = {"clean": {}, "corruptions": corruptions}
    study = Study(out, data, seeds, measured, arguments.share)
    trainings = list(study.every())
    chosen = [t for t in trainings if fnmatch(t.name, arguments.only)]
    if arguments.collect:
        collect(out, arguments.record, chosen, arguments.threads)
    elif arguments.time:
        timed(out, chosen, arguments.threads)
    else:
        run(out, chosen, measure=not arguments.train)


if __name__ == "__main__":
    main()
