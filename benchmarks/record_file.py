"""Where a script of benchmarks/ writes what it measured; one way for all of them.

A plain run writes below ``runs/records``, where git looks at nothing. ``--record`` alone renews
the record in git, from which the documentation has its figures; ``--record FILE`` writes there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from steppe.core.serialization import write_text

COMMITTED = Path(__file__).parent / "records"
PLAIN = Path("runs") / "records"


def add_record(parser: argparse.ArgumentParser, name: str) -> None:
    """The option ``--record``, by which a script renews ``benchmarks/records/NAME.json``.

    A name may hold other options, as ``pilot-{on}``; ``record_of`` fills them in.
    """
    file = f"{name}.json"
    parser.add_argument(
        "--record",
        type=_file,
        nargs="?",
        const=COMMITTED / file,
        default=PLAIN / file,
        metavar="FILE",
        help=f"where the record is written; without FILE the one in git, benchmarks/records/{file} "
        f"[{PLAIN / file}]",
    )


def record_of(arguments: argparse.Namespace) -> Path:
    """Where the record goes, with the options that its name holds."""
    path: Path = arguments.record
    return path.with_name(path.name.format_map(vars(arguments)))


def write_record(path: Path, record: Any) -> None:
    """Write a record, whole or not at all; its folder is made."""
    write_text(path, json.dumps(record, indent=1) + "\n")


def _file(text: str) -> Path:
    if Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; --record alone goes last")
    return Path(text)
