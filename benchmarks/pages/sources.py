"""What figures are made from: records, recipes, and numbers that stand in a file."""

from __future__ import annotations

import ast
import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


@cache
def record(name: str) -> Any:
    """``benchmarks/records/NAME.json``, or the rows of ``NAME.csv``."""
    path = ROOT / "benchmarks" / "records" / name
    if path.suffix == ".csv":
        lines = path.read_text(encoding="utf-8").splitlines()
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))
    return json.loads(path.with_name(f"{name}.json").read_text(encoding="utf-8"))


def comment(name: str) -> str:
    """What a record in CSV says of itself."""
    lines = (ROOT / "benchmarks" / "records" / name).read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


def read(name: str) -> Any:
    """A YAML file of the repository, such as a recipe."""
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@cache
def recipe(name: str) -> Any:
    """A recipe of the package as a run of it would have it: with its base, with the defaults."""
    from steppe.experiment.recipe import read as whole  # the one thing here that needs torch

    return whole(ROOT / "src" / "steppe" / "recipes" / f"{name}.yaml").plain()


def papers(paper: str, table: str) -> list[dict[str, str]]:
    """What a paper prints in a table of its own, from the list that comes with steppe."""
    path = ROOT / "src" / "steppe" / "report" / "papers.csv"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    return [r for r in csv.DictReader(lines) if (r["paper"], r["table"]) == (paper, table)]


def over_15_kinds(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose ``corruptions`` have ``mean`` and ``relative`` (R_C) over the 15 common kinds.

    Records name these means by their number of kinds, and older ones as here.
    """
    result = row.get("corruptions")
    if not result:
        return row
    kinds = [cells for name, cells in result["accuracy"].items() if name not in result["extra"]]
    mean = statistics.fmean(share for cells in kinds for share in cells.values())
    return row | {"corruptions": result | {"mean": mean, "relative": mean / result["clean"]}}


def grouped(rows: Iterable[dict[str, Any]], *keys: str) -> dict[Hashable, list[dict[str, Any]]]:
    """Rows by the values of these keys, such as the seeds of one method; one key: its value."""
    groups: dict[Hashable, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        own = tuple(row[key] for key in keys)
        groups[own if len(keys) > 1 else own[0]].append(row)
    return groups


def numbers_in(pattern: str) -> set[float]:
    """Numbers that the files of a pattern set: leaves of YAML, literals of Python."""
    files = sorted(ROOT.glob(pattern))
    assert files, f"no file {pattern}"
    numbers: set[float] = set()
    for path in files:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            nodes = ast.walk(ast.parse(text))
            leaves: Iterable[Any] = (n.value for n in nodes if isinstance(n, ast.Constant))
        else:
            leaves = _leaves(yaml.safe_load(text))
        numbers |= {float(x) for x in leaves if isinstance(x, int | float)}
    return numbers


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for value in tree.values():
            yield from _leaves(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _leaves(value)
    else:
        yield tree
