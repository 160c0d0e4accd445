"""The recipes of ImageNet: killed and resumed on drawn images, no results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..cells import Table, cell
from ..registry import Claim, Rule, claims, table
from ..sources import ROOT, record

PAGE = "docs/results.md"
SECTION = "Recipes of ImageNet: killed and resumed"
SCRIPT = "benchmarks/imagenet_recipes.py"


def steps(run: dict[str, Any]) -> tuple[float, float]:
    """After which of how many a run went on."""
    (said,) = run["resumed"]
    *_, after, _, every = said.split()
    return float(after), float(every)


@table("imagenet-recipes")
def recipes() -> Table:
    rows = []
    runs = record("imagenet-recipes")["runs"]
    for run in sorted(runs, key=lambda run: (run["recipe"], run["ranks"])):
        assert run["killed_before_its_end"], f"{run['recipe']} was not killed in its midst"
        same = "the same bits" if run["same_bits"] else "OTHER BITS"
        went_on = cell("{:.0f} of {:.0f}", *steps(run))
        rows.append([f"`{run['recipe']}`", f"{run['ranks']}", went_on, same])
    return Table(["recipe", "processes", "went on after step", "weights in the end"], rows)


@table("imagenet-layouts")
def layouts() -> Table:
    rows = [
        [
            cell("{:,.0f}", one["corruptions"]),
            cell("{:,.0f}", one["shifted"]),
            cell("{:.0f}", one["peak_bytes"] / 1e6),
        ]
        for one in record("imagenet-recipes")["evaluated"]
    ]
    return Table(["images of ImageNet-C", "of ImageNet-V2", "memory at most, MB"], rows)


@claims(PAGE, SECTION)
def set_up() -> Iterator[Claim]:
    own = record("imagenet-recipes")
    names = {run["recipe"] for run in own["runs"]}
    every = len(list(ROOT.glob("src/steppe/recipes/*/imagenet-*.yaml")))
    yield "{} of the {} recipes for ImageNet", len(names), every
    assert own["processor"] == "AMD EPYC", "the page says: an AMD EPYC"
    yield "2,000 drawn JPEGs in", Rule("benchmarks/imagenet_like.py", "images: int = 2000,")
    yield "in 1,000 classes", Rule("benchmarks/imagenet_like.py", "classes: int = 1000,")
    yield "cut to {} x {}, for {} epochs", own["size"], own["size"], own["epochs"]
    yield "epochs of {} batches of {}", own["batches"], own["batch"]
    assert all(run["same_bits"] for run in own["runs"]), "the page says: the same bits"
    less = Rule(SCRIPT, '{"adasap/imagenet-mobilenet-v2-latency": 0.25}')
    yield "MobileNetV2 can lose 25 %", less
    yield "contrast at severity 3;", Rule(SCRIPT, '"contrast", "--severities", "3"')
    few, many = own["evaluated"]
    yield "on {} names for each", many["shifted"] / few["shifted"]
