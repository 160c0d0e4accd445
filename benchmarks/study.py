"""A study: many trainings of ``steppe train``, each measured, in folders that are never done twice.

Any number of processes may work on one study: a folder is taken by a lock, which the system frees
when its process ends, and a training that was cut off goes on from its checkpoint.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from record_file import write_record

from steppe.cli.main import main as steppe_command
from steppe.evaluation import ensure
from steppe.experiment.read import read_plain
from steppe.experiment.recipe import Recipe
from steppe.experiment.tasks import TASKS, task_of
from steppe.report.html import write_report
from steppe.report.markdown import data, markdown
from steppe.report.record import read_records


@dataclass(frozen=True)
class Training:
    """One network of a study.

    Args:
        name: of its folder.
        recipe: what is trained.
        measured: evaluation -> its flags.
        beside: the folder's name of the network that the ``clean`` evaluation compares with.
        slim: its channels are removed (``steppe remove``) before anything is measured.
        after: the folder's name of the network that it starts from.
    """

    name: str
    recipe: Recipe
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    beside: str | None = None
    slim: bool = False
    after: str | None = None

    @property
    def measured_folder(self) -> str:
        """The folder's name of the network that is measured."""
        return f"{self.name}-slim" if self.slim else self.name


def changed(path: Path, seed: int, **parts: dict[str, Any]) -> Recipe:
    """A recipe, of any task, with another seed and other options of some of its parts."""
    data, file = read_plain(path)
    task = task_of(data, file.parent)
    plain = task.load(data, str(file), file.parent).plain() | {"seed": seed}
    for part, options in parts.items():
        same = part != "method" or options.get("name") in (None, plain[part]["name"])
        plain[part] = plain[part] | options if same else options  # another method has its own
    recipe: Recipe = task.load(plain, str(file), None)
    return recipe


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether the folder is this process's until the end of the block."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.claim").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def run(out: Path, trainings: Iterable[Training], measure: bool = True) -> None:
    """Train, and if asked measure, everything that no other process is at."""
    for training in trainings:
        folder = out / training.name
        with claimed(folder) as mine:
            if not mine:
                continue
            if not (folder / "record.json").exists():
                if (
                    training.after is not None
                    and not (out / training.after / "record.json").exists()
                ):
                    print(training.name, "waits for", training.after, flush=True)
                    continue
                task = TASKS[training.recipe.task]
                record = task.train(training.recipe, folder, True)
                quality = task.quality(training.recipe)
                print(
                    training.name,
                    f"{quality.name} {quality.read(record):.4f} {record['seconds']:.0f} s",
                    flush=True,
                )
            if training.slim and not (out / training.measured_folder / "record.json").exists():
                remove(folder, out / training.measured_folder)
            if measure:
                _measure(out, training)


def remove(run: Path, out: Path) -> None:
    """``steppe remove``."""
    typed("remove", str(run), "--out", str(out), "--device", "cpu", "--quiet")


def typed(*words: str) -> None:
    """A command of ``steppe``, in this process.

    Raises:
        SystemExit: it failed.
    """
    try:
        steppe_command(list(words))
    except SystemExit as ended:
        if ended.code:
            raise


def _measure(out: Path, training: Training) -> None:
    folder = str(out / training.measured_folder)
    for on, flags in training.measured.items():
        result = ensure(on, folder, flags)
        figures = {k: v for k, v in result.items() if isinstance(v, float)}
        print("   ", training.name, on, figures, flush=True)
    if training.beside is not None and (out / training.beside / "record.json").exists():
        ensure("clean", folder, {"beside": str(out / training.beside)})


def collect(
    out: Path, record: Path, trainings: Iterable[Training], title: str, commands: list[str]
) -> None:
    """The record, the tables and the report of every network that is there."""
    whole = list(trainings)
    done = [t for t in whole if (out / t.name / "record.json").exists()]
    records = read_records([out / t.measured_folder for t in done])
    write_report(out / "report.html", title=title, records=records, commands=commands)
    summary = data(records, title=title, commands=commands)
    summary["commands"] = commands  # those of each network are in the report
    summary["missing"] = [t.name for t in whole if t not in done]
    summary["networks"] = [
        {
            "name": training.name,
            "accuracy": r["sparse"]["accuracy"],
            "accuracy_before_projection": r["before_projection"]["accuracy"],
            "projection_distance": r["projection_distance"],
            "sparsity": r["sparsity_reached"],
            "seed": r["seed"],
            "seconds": r["seconds"],
            "label_noise": r.get("label_noise"),
        }
        | {on: _few(result) for on, result in r.get("evaluations", {}).items() if on != "clean"}
        for training, r in zip(done, records, strict=True)
    ]
    write_record(record, summary)
    print(markdown(records, title=title, commands=commands))
    print("missing:", summary["missing"])


def _few(result: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in result.items() if not isinstance(v, str)}
