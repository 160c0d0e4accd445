"""A language model made smaller in several ways, each by the same share of its decoder blocks.

    python benchmarks/llm/slim_study.py MODEL --text text.txt --evaluate test.txt \\
        --runs benchmarks/llm/slim_study.yaml --out runs/slim \\
        --record benchmarks/records/slim-study.json [--only NAME ...] [--shares 0.25] [--seeds 0 1]

``--text`` calibrates all of them, with the same windows; ``--evaluate`` is only measured. The share
that is really gone is counted. Runs that are in the record, or done in ``--out``, are not repeated,
one that was cut off goes on, and several processes may share both: each adds its runs to the record
as they end. A record with other settings or texts is refused.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml
from bench_selection import processor
from rule_command import blocks_of, parameters_of
from study import claimed

from steppe.core.serialization import write_text
from steppe.llm.load import load
from steppe.llm.perplexity import perplexity
from steppe.removal.plan import Plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--text", required=True, help="that calibrates")
    parser.add_argument("--evaluate", required=True)
    parser.add_argument("--runs", type=Path, required=True, help="YAML: what is compared")
    parser.add_argument("--only", nargs="*", help="names of runs")
    parser.add_argument("--shares", type=float, nargs="*", help="[those of the YAML]")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True)
    study = Study(parser.parse_args())
    for name, share, seed in study.wanted():
        run = label(name, share, seed)
        if run in study.known():
            continue
        with claimed(study.out / run) as mine:
            if mine:
                study.make(name, share, seed)
        study.keep()


def label(name: str, share: float, seed: int) -> str:
    """Of a run: slim-25-seed0."""
    return f"{name}-{100 * share:g}-seed{seed}"


class Study:
    """What is compared, where it lies, and what is known of it.

    Args:
        given: of the command.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.out = given, given.out
        self.settings: dict[str, Any] = yaml.safe_load(given.runs.read_text())
        self.runs: dict[str, dict[str, Any]] = self.settings["runs"]
        unknown = {*(given.only or [])} - self.runs.keys()
        if unknown:
            raise SystemExit(f"no run {', '.join(sorted(unknown))} in {given.runs}")
        self.out.mkdir(parents=True, exist_ok=True)

    def wanted(self) -> Iterator[tuple[str, float, int]]:
        """Name, share and seed of every run that is asked for."""
        for seed in self.given.seeds:
            for name in self.given.only or self.runs:
                own = self.runs[name]
                if seed in own.get("seeds", self.given.seeds):
                    for share in self.given.shares or own.get("shares", self.settings["shares"]):
                        yield name, share, seed

    def make(self, name: str, share: float, seed: int) -> None:
        """One run, whose row is kept beside its folder."""
        kept = self.out / f"{label(name, share, seed)}.json"
        if kept.exists():
            return
        (kind,) = KINDS.keys() & self.runs[name].keys()
        row = KINDS[kind](self, name, share, seed)
        common = {"run": kept.stem, "name": name, "asked": share, "seed": seed}
        write_text(kept, json.dumps(common | row | {"processor": processor()}) + "\n")
        gone = 100 * row["removed_of_blocks"]
        print(f"{kept.stem}: {row['perplexity']:.2f}, {gone:.2f} % gone", flush=True)

    def measured(self, model: Any, tokenizer: Any) -> dict[str, Any]:
        """Perplexity on the text that is only measured, and the parameters that there are."""
        window = self.settings["window"]
        found = perplexity(model, self.given.evaluate, window=window, tokenizer=tokenizer, batch=16)
        return {
            "perplexity": found["perplexity"],
            "parameters": parameters_of(model),
            "blocks": parameters_of(blocks_of(model)),
        }

    def dense(self) -> dict[str, Any]:
        """The same of the whole model."""
        kept = self.out / "dense" / "measured.json"
        if not kept.exists():
            write_text(kept, json.dumps(self.measured(*self.loaded(self.given.model))) + "\n")
        return dict(json.loads(kept.read_text()))

    def loaded(self, folder: str | Path) -> tuple[Any, Any]:
        """A model in float32, and its tokenizer."""
        return load(str(folder), dtype="float32")

    def compared(self, found: dict[str, Any]) -> dict[str, Any]:
        """What was measured, with the share of the blocks that is gone."""
        blocks = found["blocks"]
        return found | {"removed_of_blocks": 1 - blocks / self.dense()["blocks"]}

    def asked(self) -> dict[str, Any]:
        """What all runs of a record have in common."""
        common = {key: self.settings[key] for key in ("window", "samples")}
        texts = {key: Path(getattr(self.given, key)).name for key in ("text", "evaluate")}
        return {"model": Path(self.given.model).name} | texts | common

    def known(self) -> dict[str, dict[str, Any]]:
        """What the record holds already: run -> its row."""
        if not self.given.record.exists():
            return {}
        record = json.loads(self.given.record.read_text())
        of_others = [key for key, value in self.asked().items() if record[key] != value]
        of_others += [n for n, own in record["settings"].items() if self.runs.get(n) != own]
        if of_others:
            raise SystemExit(
                f"{self.given.record} is of another {', '.join(of_others)}: take another --record "
                "and --out"
            )
        return {row["run"]: row for row in record["runs"]}

    def keep(self) -> None:
        """Add every run that is done here to the record."""
        dense = self.dense()
        with (self.out / ".record.claim").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            rows = self.known()
            for kept in self.out.glob("*-seed*.json"):
                rows.setdefault(kept.stem, json.loads(kept.read_text()))
            used = {row["name"] for row in rows.values()}
            record = self.asked() | {
                "settings": {name: own for name, own in self.runs.items() if name in used},
                "dense": dense,
                "runs": [rows[run] for run in sorted(rows)],
            }
            write_text(self.given.record, json.dumps(record, indent=1) + "\n")


def pruned(study: Study, name: str, share: float, seed: int) -> dict[str, Any]:
    """By `steppe prune`."""
    folder = folder_of(study, name, share, seed)
    record = json.loads((folder / "record.json").read_text())
    return study.compared(study.measured(*study.loaded(folder))) | {
        "method": record["method_display"],
        "said": record["removed"]["units"] or record["removed"]["blocks"],
        "seconds": record["seconds"],
        "peak_memory_gib": record["peak_memory_bytes"] / 2**30,
    }


def folder_of(study: Study, name: str, share: float, seed: int) -> Path:
    """A pruning's; a folder that is finished is left as it is."""
    folder = study.out / label(name, share, seed)
    dense = study.dense()
    most = int(dense["parameters"] - share * dense["blocks"])
    flags = study.runs[name]["prune"].format(share=share, parameters=most).split()
    command = ["prune", study.given.model, *flags, "--calibration", study.given.text]
    for option in ("window", "samples"):
        command += [f"--{option}", str(study.settings[option])]
    command += ["--seed", str(seed), "--measure", "0", "--device", "cpu", "--quiet"]
    run([sys.executable, "-m", "steppe.cli.main", *command, "--out", str(folder)], folder.name)
    return folder


def unrepaired(study: Study, name: str, share: float, seed: int) -> dict[str, Any]:
    """The cut of another run, of the dense weights."""
    other = study.runs[name]["cut_of"]
    with claimed(study.out / label(other, share, seed)) as mine:
        if not mine:
            raise SystemExit(f"{other} is being made by another process: start again later")
        folder = folder_of(study, other, share, seed)
    model, tokenizer = study.loaded(study.given.model)
    Plan.load(folder).apply(model)
    return study.compared(study.measured(model, tokenizer))


def by_rule(study: Study, name: str, share: float, seed: int) -> dict[str, Any]:
    """By a script beside this one, which measures too."""
    rows = study.out / "rules" / f"{label(name, share, seed)}.json"
    if not rows.exists():
        rows.parent.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).parent / study.runs[name]["rule"]
        command = [sys.executable, str(script), study.given.model, "--removed", str(share)]
        command += ["--calibration", study.given.text, "--evaluate", study.given.evaluate]
        for option in ("window", "samples"):
            command += [f"--{option}", str(study.settings[option])]
        run([*command, "--seed", str(seed), "--record", str(rows)], rows.stem)
    (row,) = json.loads(rows.read_text())
    plain = ("rule", "removed_asked", "parameters_dense", "seed", "window", "samples")
    return {key: value for key, value in row.items() if key not in plain}


def run(command: list[str], name: str) -> None:
    """One command; what fails ends this one too."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")


KINDS: dict[str, Callable[[Study, str, float, int], dict[str, Any]]] = {
    "prune": pruned,
    "cut_of": unrepaired,
    "rule": by_rule,
}
"""Key of a run in the YAML -> what makes it and measures it."""


if __name__ == "__main__":
    main()
