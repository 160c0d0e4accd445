"""Language models: what the default of SAFE gains over ALPS on three architectures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..cells import Cell, Table, cell
from ..registry import Cited, Claim, Rule, at_most, claims, table
from ..sources import record

PAGE, SECTION = "docs/results.md", "Language models: the default on three architectures"

MODELS = {"llama": "tiny-llama", "gpt2": "GPT-2-like", "opt": "OPT-like"}
METHODS = {
    "sparsegpt": "SparseGPT",
    "alps": "ALPS",
    "safe": "SAFE, SAFE+",
    "paper": "SAFE as published",
}
LEVELS = {"50": "50 %", "60": "60 %", "70": "70 %", "24": "2:4"}


def runs(model: str) -> dict[str, dict[str, Any]]:
    """Method-level -> run."""
    return record(f"llm-defaults-{model}")["runs"]


def pairs() -> list[tuple[str, str]]:
    """Every model with every level."""
    return [(model, level) for model in MODELS for level in LEVELS]


def perplexity(model: str, method: str, level: str) -> float:
    return runs(model)[f"{method}-{level}"]["perplexity"]


def gained(model: str, level: str) -> float:
    """Perplexity by which SAFE's steps are below ALPS, from which they start."""
    return perplexity(model, "alps", level) - perplexity(model, "safe", level)


def minutes(model: str, level: str) -> float:
    """Of one core, that SAFE's steps take beyond ALPS."""
    safe, alps = (runs(model)[f"{name}-{level}"] for name in ("safe", "alps"))
    return (safe["processor_seconds"] - alps["processor_seconds"]) / 60


def kept_the_start(model: str, level: str) -> tuple[int, int]:
    """Blocks that kept ALPS's weights, of how many."""
    judged = [one["block"]["kept"] for one in runs(model)[f"safe-{level}"]["held_out"]]
    return judged.count("start"), len(judged)


@table("llm-defaults")
def defaults() -> Table:
    rows: list[list[str | Cell]] = []
    for model, shown in MODELS.items():
        for method, label in METHODS.items():
            cells: list[str | Cell] = [
                cell("{:.2f}", perplexity(model, method, level))
                if f"{method}-{level}" in runs(model)
                else "not run"
                for level in LEVELS
            ]
            rows.append([shown, label, *cells])
    return Table(["model", "method", *LEVELS.values()], rows)


@table("llm-worth")
def worth() -> Table:
    rows: list[list[str | Cell]] = []
    for model, shown in MODELS.items():
        cells: list[str | Cell] = []
        for level in LEVELS:
            kept, blocks = kept_the_start(model, level)
            numbers = (gained(model, level), minutes(model, level), kept, blocks)
            cells.append(cell("{:.2f} in {:.1f} min; {} of {}", *numbers))
        rows.append([shown, *cells])
    return Table(["model", *LEVELS.values()], rows)


@claims(PAGE, SECTION, settings=["benchmarks/llm/train_small.py"])
def set_up() -> Iterator[Claim]:
    dense = [record(f"llm-defaults-{model}")["dense"] for model in MODELS]
    yield "dense perplexities {}, {} and {}", *dense
    epochs = Rule("benchmarks/records/llm-defaults-gpt2.json", "gpt2 --epochs 8")
    yield "trained for 8 epochs (4 for the other)", epochs
    six = Cited("tiny-llama's config.json")
    yield "`tiny-llama` (six blocks of 256,", six


@claims(PAGE, SECTION)
def verdict() -> Iterator[Claim]:
    def below(other: str) -> list[float]:
        return [perplexity(m, other, one) - perplexity(m, "safe", one) for m, one in pairs()]

    counted = [sum(x > 0 for x in below(other)) for other in ("sparsegpt", "alps", "paper")]
    yield (
        "below SparseGPT in {}, below ALPS in {} and below SAFE as published in {} of {} cells",
        *counted,
        len(pairs()),
    )
    behind = [perplexity(m, "paper", x) > perplexity(m, "sparsegpt", x) for m, x in pairs()]
    yield "published is behind SparseGPT in {}.", sum(behind)
    for other, shown in (("alps", "ALPS"), ("sparsegpt", "SparseGPT")):
        yield f"behind {shown} by at most {{}}", at_most(-min(below(other)))
    for model, shown in (("llama", "tiny-llama"), ("opt", "OPT-like"), ("gpt2", "GPT-2-like")):
        gains = [100 * gained(model, level) / perplexity(model, "alps", level) for level in LEVELS]
        yield f"{{}} to {{}} % on the {shown}", min(gains), max(gains)
    longer = [
        runs(m)[f"safe-{one}"]["processor_seconds"] / runs(m)[f"alps-{one}"]["processor_seconds"]
        for m, one in pairs()
    ]
    yield "{} to {} times the processor time of ALPS", min(longer), max(longer)
    again = [
        abs(runs(m)[f"alps-{one}"]["perplexity"] - value)
        for m in ("llama", "opt")
        for one, value in record(f"llm-defaults-{m}")["alps_with_the_inverse_checked"].items()
    ]
    yield "at most {} away", at_most(max(again))
