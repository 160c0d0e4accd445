"""Language models: perplexity, time and what each option does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..cells import Cell, Table, cell
from ..registry import Cited, Claim, Rule, at_least, claims, table
from ..sources import comment, record

PAGE, SECTION = "docs/results.md", "Language models"

METHODS = {"magnitude": "magnitude", "wanda": "Wanda", "sparsegpt": "SparseGPT", "alps": "ALPS"}
METHODS |= {"safe": "SAFE", "safe_plus": "SAFE+"}
LEVELS = {"50": "50 %", "60": "60 %", "70": "70 %", "24": "2:4", "48": "4:8"}
OPTIONS = {
    "safe-70": "SAFE",
    "apart-70": "attention and feed-forward apart",
    "cosine-70": "cosine penalty schedule",
    "nosam-70": "no perturbation",
    "every2-70": "perturbation at every second step",
    "start-sparsegpt-mask-70": "start from SparseGPT, its support kept",
    "start-alps-70": "start from ALPS, ADMM free to move",
    "start-alps-mask-70": "start from ALPS, its support kept (*best setting*)",
    "start-alps-mask-nosam-70": "the same, no perturbation",
    "alps-70": "ALPS alone",
}


def runs() -> dict[str, dict[str, Any]]:
    """Name -> run, ours."""
    return record("llm-table")["runs"]


def authors() -> dict[str, dict[str, float]]:
    """Method-sparsity or method-pattern -> perplexity and seconds of the authors' code."""
    rows = {}
    for row in record("official-llm.csv"):
        method = row["method"].replace("+", "_plus")
        pattern = row["structure"].replace(":", "")
        level = pattern if pattern in LEVELS else f"{100 * float(row['sparsity']):.0f}"
        numbers = {key: float(row[key]) for key in ("perplexity", "seconds", "reached")}
        rows[f"{method}-{level}"] = numbers
    return rows


def their_product() -> float:
    """Seconds of a 2048-cube float32 product where the authors' code ran."""
    match = re.search(r"matrix product took ([\d.]+) s there", comment("official-llm.csv"))
    assert match is not None
    return float(match[1])


@table("llm-perplexity")
def perplexity() -> Table:
    ours, theirs = runs(), authors()
    rows: list[list[str | Cell]] = []
    for name, shown in METHODS.items():
        keys = [f"{name}-{level}" for level in LEVELS]
        pairs = [(ours[key]["perplexity"], theirs[key]["perplexity"]) for key in keys]
        rows.append([shown, *(cell("{:.2f} ({:.2f})", *pair) for pair in pairs)])
    best = [ours[f"best-{level}"]["perplexity"] for level in LEVELS]
    rows.append(["**best setting**", *(cell("**{:.2f}**", one) for one in best)])
    return Table(["method", *LEVELS.values()], rows)


def units(run: dict[str, Any]) -> float:
    """Seconds of pruning in products of the same run."""
    return run["seconds_pruning"] / run["matmul_2048_seconds"]


@table("llm-time")
def time() -> Table:
    ours, theirs = runs(), authors()
    rows: list[list[str | Cell]] = []
    for name, shown in (METHODS | {"best": "best setting"}).items():
        cells = []
        for level in LEVELS:
            run = ours[f"{name}-{level}"]
            other = theirs[f"{name if name in METHODS else 'safe'}-{level}"]["seconds"]
            seconds = run["seconds_pruning"]
            own = (seconds, units(run), other / their_product())
            form = f"{{:.{1 if seconds < 100 else 0}f}} s, {{:.0f}} "
            if name in METHODS:
                cells.append(cell(form + "({:.0f}), {:.1f}x", *own, own[2] / own[1]))
            else:
                cells.append(cell(form + "({:.0f}*)", *own))
        peak = max(ours[f"{name}-{level}"]["peak_memory_gib"] for level in LEVELS)
        rows.append([shown, *cells, cell("{:.2f}", peak)])
    return Table(["method", *LEVELS.values(), "peak memory, GiB"], rows)


@table("llm-options")
def options() -> Table:
    ours = runs()
    plain = ours["safe-70"]["perplexity"]
    rows: list[list[str | Cell]] = []
    for name, label in OPTIONS.items():
        run = ours[name]
        change = cell("{:+.1%}", run["perplexity"] / plain - 1) if name != "safe-70" else ""
        busy = "*" if name == "apart-70" else ""
        seconds = cell("{:.0f}" + busy, run["seconds_pruning"])
        rows.append([label, cell("{:.2f}", run["perplexity"]), change, seconds])
    return Table(["", "perplexity", "change", "pruning, s"], rows)


@claims(PAGE, SECTION)
def set_up() -> Iterator[Claim]:
    windows = Rule("benchmarks/records/official-llm.csv", "128 random windows of 256 tokens")
    yield "calibrated with 128 windows of 256 tokens of WikiText-2 validation", windows
    yield "a LLaMA of six blocks (hidden size 256, 4,096 words)", Cited("tiny-llama's config.json")
    yield "Dense: {}. In brackets", record("llm-table")["dense"]


@claims(PAGE, SECTION)
def time_said() -> Iterator[Claim]:
    magnitude = [runs()[f"magnitude-{level}"] for level in LEVELS]
    alone = [run["seconds_by_part"]["prune"] / run["matmul_2048_seconds"] for run in magnitude]
    theirs = [authors()[f"magnitude-{level}"]["seconds"] / their_product() for level in LEVELS]
    yield (
        "ours, alone, is {} to {} units against {}",
        *(min(alone), max(alone), sum(theirs) / len(theirs)),
    )


@claims(PAGE, SECTION)
def beside_the_authors() -> Iterator[Claim]:
    ours, theirs = runs(), authors()

    def off(name: str, level: str) -> float:
        key = f"{name}-{level}"
        return 100 * (1 - ours[key]["perplexity"] / theirs[key]["perplexity"])

    rounded = [("wanda", "60"), ("wanda", "70")]
    close = [
        abs(off(name, level))
        for name in ("magnitude", "wanda", "sparsegpt", "alps")
        for level in LEVELS
        if (name, level) not in rounded
    ]
    yield "are the authors' to within {} %, but for Wanda", max(close)
    reached = [100 * theirs[f"wanda-{level}"]["reached"] for level in ("60", "70")]
    yield "rounds a row's count down and reaches {} and {} %", *reached
    safe = [off(name, level) for name in ("safe", "safe_plus") for level in LEVELS]
    yield "end {} to {} % below the authors'", min(safe), max(safe)
    config = "src/steppe/engine/blockwise/config.py"
    yield "10 epochs from 1e-3", Rule(config, "epochs: int = option(10,")
    yield "10 epochs from 1e-3 instead", Rule(config, "lr: float = option(1e-3,")
    scripts = Rule("benchmarks/records/official-llm.csv", "lr 2e-4, 30 epochs")
    yield "instead of 30 from 2e-4", scripts
    times = [units(ours[f"safe-{level}"]) / units(ours[f"alps-{level}"]) for level in LEVELS]
    yield "in every column but 50 %, at over {} times the cost", at_least(min(times))
