"""Language models trained as a whole, beside block by block, at equal tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..cells import Cell, Table, cell, half_range
from ..registry import Cited, Claim, Rule, claims, table
from ..sources import record

PAGE, SECTION = "docs/results.md", "Language models: trained as a whole"
SHOWN = {
    "dense": "dense, trained further",
    "wanda": "Wanda",
    "alps": "ALPS",
    "best": "best block setting",
    "elsa": "ELSA",
    "elsa_v": "ELSA, by the second moment",
    "none": "SAFE without perturbation",
    "safe": "SAFE",
    "functional": "SAFE, functional SAM",
    "gmp": "GMP",
    "wanda_tuned": "Wanda, then tuned",
    "alps_tuned": "ALPS, then tuned",
    "elsa_distilled": "ELSA, distilled",
    "wanda_distilled": "Wanda, then distilled",
}
STEPS, LONG, LEVELS = 1024, 4096, (70, 80, 90, 95)


def found(name: str, level: int, steps: int | None = STEPS) -> list[dict[str, Any]]:
    """The runs of a setting, one for each seed; a dense one has no level, a pruning no steps."""
    return [
        run
        for run in record("whole-study")["runs"]
        if run["name"] == name
        and run["steps"] in (steps, None)
        and (name == "dense" or abs(100 * run["asked"] - level) < 1e-6)
    ]


def mean(name: str, level: int, steps: int | None = STEPS) -> float:
    """Perplexity, over the seeds."""
    values = [run["perplexity"] for run in found(name, level, steps)]
    return sum(values) / len(values)


def _perplexity(runs: list[dict[str, Any]]) -> str | Cell:
    return half_range([run["perplexity"] for run in runs], 2) if runs else "not run"


@table("llm-whole")
def levels() -> Table:
    there = [level for level in LEVELS if found("elsa", level)]
    rows: list[list[str | Cell]] = []
    for name, shown in SHOWN.items():
        own = [found(name, level) for level in there]
        if any(own):
            rows.append([shown, *map(_perplexity, own)])
    return Table(["", *(f"{level} %" for level in there)], rows)


@table("llm-whole-long")
def longer() -> Table:
    rows: list[list[str | Cell]] = []
    for name in ("dense", "elsa", "wanda_tuned"):
        each = [found(name, 90, steps) for steps in (STEPS, LONG)]
        if any(each):
            rows.append([SHOWN[name], *map(_perplexity, each)])
    return Table(["90 %", *(f"{steps:,} steps" for steps in (STEPS, LONG))], rows)


@table("llm-whole-cost")
def cost() -> Table:
    rows: list[list[str | Cell]] = []
    for name, shown in SHOWN.items():
        runs = found(name, 90)
        if runs:
            memory = max(run["peak_memory_gib"] for run in runs)
            rows.append([shown, cell("{:.2f}", memory)])
    return Table(["90 %", "peak, GiB"], rows)


@claims(PAGE, SECTION)
def set_up() -> Iterator[Claim]:
    own, study = record("whole-study"), "benchmarks/llm/whole_study.py"
    yield "The model before: {}", own["dense"]
    yield "8 windows of {} tokens", own["settings"]["window"]
    yield "{} steps of 8", Rule(study, "default=1024")
    yield "steps of {} windows", own["settings"]["batch_size"]
    yield "({} windows, each once)", Rule("docs/results.md", "self:1:0:4096=0.5")
    yield "learning rate {} falling", Rule("benchmarks/llm/whole_study.yaml", "--lr 2e-3")
    together = Cited("the trial that drew them, see the sentence")
    yield "drawn {} at a time, in a trial", together
    yield (
        "the command draws {} at a time",
        Rule("src/steppe/llm/tokens/sampled.py", "TOGETHER = 16"),
    )
    yield "calibrate with {} windows", Rule("src/steppe/llm/prune_config.py", "Field(128")


@claims(PAGE, SECTION)
def verdict() -> Iterator[Claim]:
    dense, elsa = mean("dense", 90), mean("elsa", 90)
    yield "goes from {} to {}", record("whole-study")["dense"], dense
    yield "GMP ({}), ALPS", mean("gmp", 90)
    yield "mask tuned ({}) and ELSA ({})", mean("alps_tuned", 90), elsa
    yield "at 70 % ELSA ({})", mean("elsa", 70)
    assert mean("elsa", 70) < dense
    yield "ALPS alone** ({})", elsa / mean("alps", 90)
    yield "and {} of that of Wanda's mask", elsa / mean("wanda_tuned", 90)
    for level, said in ((80, "At 80 % it has {} of it"), (95, "at 95 % {}.")):
        yield said, mean("elsa", level) / mean("wanda_tuned", level)
    ways = [mean(name, 90) for name in ("safe", "functional", "none")]
    yield "true loss** has {} with SAM, {} with functional SAM and {} without", *ways
    yield "tuned on as many tokens ({} was the aim", Cited("the issue that asked for the table")
    yield "the aim: {} would be below", Cited("the issue that asked for the table")
    yield "**{} steps** pass", LONG
    long = [mean(name, 90, LONG) for name in ("dense", "elsa", "wanda_tuned")]
    yield "goes on to {}, ELSA to {}, Wanda's mask to {}.", *long
    yield "There ELSA has {} of what the mask has", long[1] / long[2]
    moment = [mean("elsa_v", level) for level in (70, 80, 95)]
    yield "is worse at {} and {} % ({} and {})", 70, 80, *moment[:2]
    yield "level at {} % and better at {} % ({}), where GMP", 90, 95, moment[2]
    yield "where GMP has {} as well", mean("gmp", 95)
    yield "ELSA with it has {}", mean("elsa_distilled", 90)
    yield "Up to {} % blocks", 70
    yield "calibrated on it has {} at {} %", mean("best", 70), 70
    yield "At 80 % it has {} and ELSA {}", mean("best", 80), mean("elsa", 80)
    yield "at 90 % {}: there training", mean("best", 90)
