"""Channels that go: AdaSAP beside Taylor, magnitude and HALP."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from ..cells import Cell, Table, cell, half_range
from ..registry import TEST_IMAGES, Cited, Claim, claims, table
from ..sources import grouped, recipe, record

PAGE = "docs/results.md"
SECTION = "Channels that go: AdaSAP beside Taylor and magnitude"
NETWORKS = {"resnet20": "ResNet-20", "resnet56": "ResNet-56"}
LATENCY = {"halp": "HALP", "adasap-l": "AdaSAP_L"}
SETTINGS = ["src/steppe/recipes/long/channels-16px.yaml", "benchmarks/channel_study.py"]
ARMS = {
    "magnitude": "magnitude + SGD",
    "taylor": "Taylor + SGD",
    "taylor-sam": "Taylor + SAM",
    "adasap-paper": "AdaSAP_P, the paper's radii",
    "adasap": "AdaSAP_P, radii searched",
    "adasap-taylor": "AdaSAP by Taylor, radii searched",
}
CUTS = {"0.4": "40 % fewer parameters", "0.6": "60 %"}
Seeds = list[dict[str, Any]]


def runs() -> dict[Any, Seeds]:
    """By their names, without the seed."""
    rows = record("channel-study")
    return grouped((row | {"key": row["name"].rpartition("-seed")[0]} for row in rows), "key")


@table("channel-study")
def study() -> Table:
    own, rows = runs(), []
    named = {("", "dense"): own["dense"]}
    for cut, label in CUTS.items():
        for name, shown in ARMS.items():
            if seeds := own.get(f"{name}-{cut}"):
                named[label, shown] = seeds
    for (label, shown), seeds in named.items():
        flops = [run["removed"]["flops"][1] / 1e6 for run in seeds if run["removed"]]
        millions: str | Cell = cell("{:.2f}", statistics.mean(flops)) if flops else ""
        rows.append(
            [
                label,
                shown,
                millions,
                half_range((run["accuracy"] for run in seeds), 2, 100),
                half_range((run["corruptions"]["mean_15"] for run in seeds), 1, 100),
                half_range((run["corruptions"]["r_c_15"] for run in seeds), 3),
                half_range((run["sharpness"]["one_step"] for run in seeds), 3),
                f"{len(seeds)}",
            ]
        )
    measured = ["multiply-adds, million", "clean, %", "corrupted, %", "R_C", "sharpness", "seeds"]
    return Table(["", "method", *measured], rows)


@table("channel-cut")
def cut() -> Table:
    own, rows = runs(), []
    for name, shown in (("taylor", ARMS["taylor"]), ("adasap", ARMS["adasap-paper"])):
        cells: list[str | Cell] = []
        for when in ("before", "after"):
            seeds = own[f"{name}-{when}"]
            sharp = half_range((run["sharpness"]["one_step"] for run in seeds), 3)
            accuracy = half_range((run["accuracy"] for run in seeds), 1, 100)
            cells.append(
                Cell(f"{sharp.text} ({accuracy.text})", (*sharp.figures, *accuracy.figures))
            )
        rows.append([shown, *cells])
    return Table(["", "before", "after 60 %"], rows)


def mean(arm: str, *keys: str) -> float:
    """Over the seeds, at 60 %."""
    values = []
    for run in runs()[f"{arm}-0.6"]:
        for key in keys:
            run = run[key]
        values.append(run)
    return statistics.mean(values)


@claims(PAGE, SECTION, SETTINGS)
def verdicts() -> Iterator[Claim]:
    relative = {arm: mean(arm, "corruptions", "r_c_15") for arm in ARMS}
    yield "R_C {} against {}, in both seeds", relative["adasap"], relative["taylor"]
    both = zip(runs()["adasap-0.6"], runs()["taylor-0.6"], strict=True)
    for ours, theirs in both:
        assert ours["corruptions"]["r_c_15"] > theirs["corruptions"]["r_c_15"]
    yield "with the paper's radii {}, where", relative["adasap-paper"]
    yield (
        "AdaSAP by Taylor's score has {}, Taylor + SAM {}",
        *(relative[arm] for arm in ("adasap-taylor", "taylor-sam")),
    )
    for when in ("before", "after"):  # flatter around the cut
        ours, theirs = (runs()[f"{arm}-{when}"] for arm in ("adasap", "taylor"))
        sharp_of = [statistics.mean(r["sharpness"]["one_step"] for r in s) for s in (ours, theirs)]
        assert sharp_of[0] < sharp_of[1]
    clean = {arm: 100 * mean(arm, "accuracy") for arm in ARMS}
    yield "level, {} % beside Taylor's {}", clean["adasap"], clean["taylor"]
    yield "With the paper's radii it is {} %", clean["adasap-paper"]
    corrupted = [
        100 * mean(arm, "corruptions", "mean_15") for arm in ("adasap", "taylor", "taylor-sam")
    ]
    yield "{} % against Taylor's {}, but Taylor + SAM has {} too", *corrupted
    sharp = [mean(arm, "sharpness", "one_step") for arm in ("taylor", "adasap", "adasap-paper")]
    yield "{} for Taylor, {} with searched radii and {} with the paper's", *sharp


@table("channels-speed")
def speed() -> Table:
    measured, rows = record("channel-speed"), []
    for network, label in NETWORKS.items():
        for name, shown in LATENCY.items():
            seeds = [measured[f"{network}-{name}-1.5x-seed{seed}"] for seed in (0, 1)]
            columns = ("predicted", "contiguous", "channels last")
            cells = [cell("{:.2f}, {:.2f}", *(run[key] for run in seeds)) for key in columns]
            rows.append([f"{label}, {shown}", *cells])
    return Table(["", "predicted", "contiguous", "channels last"], rows)


@claims(PAGE, SECTION, SETTINGS)
def set_up() -> Iterator[Claim]:
    images, epochs = 50_000, recipe("long/channels-16px")["train"]["epochs"]
    yield (
        "all 50,000 JPEG-recompressed",
        Cited("CIFAR-10 has 50,000 training images (Krizhevsky, 2009)"),
    )
    batch = recipe("long/channels-16px")["train"]["batch_size"]
    yield "13 epochs, {} steps", images // batch * epochs
    yield "(0.01 to 2, then 2,", Cited("the AdaSAP paper, its settings for ImageNet")
    yield "clean accuracy on all 10,000 test images", TEST_IMAGES
    corruptions = runs()["dense"][0]["corruptions"]
    kinds = corruptions["accuracy"]
    yield "{} corruptions at {} severities", len(kinds), len(next(iter(kinds.values())))
    yield "the mean over the {} common kinds", len(kinds) - len(corruptions["extra"])
    study = Cited("benchmarks/channel_speed.py, with which the record was made")
    yield "cut for 1.5 times dense", study
    yield "turns of dense and small, 41 each", study


@claims(PAGE, SECTION)
def speed_said() -> Iterator[Claim]:
    runs_ = record("channel-speed").values()
    short = [1 - run["contiguous"] / run["predicted"] for run in runs_]
    yield (
        "in contiguous memory the gain falls {} to {} % short of the table's",
        *(100 * min(short), 100 * max(short)),
    )
