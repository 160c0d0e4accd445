"""The figures of single commands of steppe as records, for the documentation.

    python benchmarks/command_record.py demo --record      # benchmarks/records/demo.json
    python benchmarks/command_record.py diagonal --record  # benchmarks/records/diagonal.json
    python benchmarks/command_record.py short --record     # benchmarks/records/short.json
    python benchmarks/results_page.py                      # the pages, from these

Networks that ``--out`` holds already are not trained again; name an empty folder after a change.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from bench_selection import processor
from record_file import add_record, record_of, write_record

from steppe.cli.main import main as steppe_command
from steppe.theory.diagonal import ARMS, best_strengths


def steppe(*words: str) -> None:
    """A command in this process; what fails ends it."""
    try:
        steppe_command([*words])
    except SystemExit as ended:
        if ended.code:
            raise


def demo(out: Path) -> dict[str, Any]:
    """Every network with what its page shows, the seeds apart."""
    steppe("demo", "--seeds", "3", "--out", str(out), "--quiet")
    networks = []
    for path in sorted(out.glob("*/record.json")):
        own = json.loads(path.read_text(encoding="utf-8"))
        flat = json.loads((path.parent / "flatness.json").read_text(encoding="utf-8"))
        networks.append(
            {
                "method": own["method"],
                "sparsity": own["sparsity_asked"],
                "seed": own["seed"],
                "accuracy": own["sparse"]["accuracy"],
                "hessian_top": flat["flatness"]["hessian_top"],
                "sharpness": flat["flatness"]["sharpness"],
                "noise": flat["noise"],
                "method_options": own["recipe"]["method"],
            }
        )
    versions = own["versions"]
    return {"command": "steppe demo --seeds 3", "versions": versions, "networks": networks}


def diagonal(out: Path) -> dict[str, Any]:
    """Each arm and curve at its best strength: where it ends."""
    steppe("diagonal", "--out", str(out), "--quiet")
    best = best_strengths(json.loads((out / "diagonal.json").read_text(encoding="utf-8")))
    ends = [
        {
            "arm": arm,
            "label": ARMS[arm].label,
            "curve": curve,
            "alpha": one["alpha"],
            "distance": one["mean"][-1],
            "error": one["error"][-1],
        }
        for (arm, curve), one in best.items()
    ]
    return {"command": "steppe diagonal", "ends": ends}


def short(out: Path) -> dict[str, Any]:
    """SAFE with a penalty for 78,000 steps, after 30: what the last projection costs."""
    words = ["train", "--data", "digits", "--method", "safe", "--sparsity", "0.95", "--epochs", "3"]
    words += ["--penalty", "1e-3", "--set", "method.interval=32"]
    steppe(*words, "--out", str(out), "--quiet")
    own = json.loads((out / "record.json").read_text(encoding="utf-8"))
    return {
        "command": shlex.join(["steppe", *words]),
        "versions": own["versions"],
        "seed": own["seed"],
        "before_projection": own["before_projection"]["accuracy"],
        "accuracy": own["sparse"]["accuracy"],
        "projection_distance": own["projection_distance"],
    }


COMMANDS = {"demo": demo, "diagonal": diagonal, "short": short}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("which", choices=[*COMMANDS])
    parser.add_argument("--out", type=Path, help="the command's; runs/NAME otherwise")
    add_record(parser, "{which}")
    arguments = parser.parse_args()
    name = arguments.which
    kept = COMMANDS[name](arguments.out or Path("runs") / name) | {"processor": processor()}
    write_record(record_of(arguments), kept)


if __name__ == "__main__":
    main()
