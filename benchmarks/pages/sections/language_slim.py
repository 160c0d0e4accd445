"""Language models with neurons, heads or blocks cut out, beside other tools' rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..cells import Cell, Table, half_range
from ..registry import Cited, Claim, claims, table
from ..sources import record

PAGE, SECTION = "docs/results.md", "Language models: smaller"
SHOWN = {
    "slim": "Slim, neurons and heads",
    "slim_unrepaired": "Slim, not repaired",
    "slim_recovered": "Slim, recovered",
    "slim_by_score": "Slim by Wanda's score",
    "by_score_unrepaired": "Slim by Wanda's score, not repaired",
    "both": "Depth and width together",
    "both_recovered": "Depth and width, recovered",
    "flap": "FLAP's rule",
    "two_ssp": "2SSP's rule",
    "depth": "Depth, whole blocks",
    "depth_recovered": "Depth, recovered",
    "torch_pruning": "Torch-Pruning's example",
}
SHARES = (25, 37.5, 50)


def found(name: str, place: int) -> list[dict[str, Any]]:
    """The runs of a setting at its first, second or third share, one for each seed."""
    study = record("slim-study")
    asked = study["settings"].get(name, {}).get("shares", [share / 100 for share in SHARES])
    own = [run for run in study["runs"] if run["name"] == name]
    return [run for run in own if run["asked"] == asked[place]]


def mean(name: str, place: int) -> float:
    """Perplexity, over the seeds."""
    values = [run["perplexity"] for run in found(name, place)]
    return sum(values) / len(values)


def _shown(name: str, place: int) -> str | Cell:
    runs = found(name, place)
    if not runs:
        return "not run"
    value = half_range([run["perplexity"] for run in runs], 2)
    reached = 100 * sum(run["removed_of_blocks"] for run in runs) / len(runs)
    return Cell(f"{value.text} ({reached:.1f} %)", (*value.figures, reached))


@table("llm-slim")
def smaller() -> Table:
    rows: list[list[str | Cell]] = []
    for name, shown in SHOWN.items():
        if any(found(name, place) for place in range(len(SHARES))):
            rows.append([shown, *(_shown(name, place) for place in range(len(SHARES)))])
    return Table(["", *(f"{share:g} % of blocks gone" for share in SHARES)], rows)


@claims(PAGE, SECTION)
def set_up() -> Iterator[Claim]:
    own = record("slim-study")
    yield "the same {} windows of {} tokens", own["samples"], own["window"]
    yield "perplexity in windows of {}", own["window"]
    yield "Dense: {}", own["dense"]["perplexity"]
    yield "of 672 neurons and 8 heads", Cited("tiny-llama's config.json")


@claims(PAGE, SECTION)
def verdict() -> Iterator[Claim]:
    ways = ("slim_unrepaired", "slim", "slim_recovered")
    half, quarter = ([mean(name, place) for name in ways] for place in (2, 0))
    yield "at {} % the same cut has {} without it, {} with it and {} once", 50, *half
    yield "At {} % it has {}, {} and {}.", 25, *quarter
    rules = [mean(name, 2) for name in ("two_ssp", "flap", "torch_pruning")]
    yield "rules** at {} %: 2SSP's has {}, FLAP's {} and Torch-Pruning's example {}", 50, *rules
    depth = [mean("depth", place) for place in range(3)]
    yield "one of six blocks {}, two {}, three {}", *depth
    both, alone = mean("both", 1), mean("slim", 1)
    yield "width together** have {} at {} %, where units alone have {}:", both, 37.5, alone
