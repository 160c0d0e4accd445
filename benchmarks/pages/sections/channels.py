"""Channels that go: AdaSAP beside Taylor, magnitude and HALP."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from ..cells import Cell, Table, cell, half_range
from ..registry import TEST_IMAGES, Cited, Claim, claims, table
from ..sources import grouped, over_15_kinds, record

PAGE = "docs/results.md"
SECTION = "Channels that go: AdaSAP beside Taylor, magnitude and HALP"
SETTINGS = ["src/steppe/recipes/adasap/cifar10-resnet-small.yaml"]
STUDY = Cited("benchmarks/channel_study.py at commit b1ca023, with which the record was made")

NETWORKS = {"resnet20": "ResNet-20", "resnet56": "ResNet-56"}
PARAMETERS = {"magnitude": "magnitude + SGD", "taylor": "Taylor + SGD"}
PARAMETERS |= {"taylor-sam": "Taylor + SAM", "adasap": "AdaSAP_P"}
LATENCY = {"halp": "HALP", "adasap-l": "AdaSAP_L"}
CUTS = {"0.4": "40 % fewer parameters", "0.6": "60 %", "1.5x": "1.5x asked for"}


def runs() -> dict[Any, list[dict[str, Any]]]:
    """By their names, without the seed."""
    rows = map(over_15_kinds, record("channels"))
    return grouped((row | {"key": row["name"].rpartition("-seed")[0]} for row in rows), "key")


def study(network: str) -> Table:
    own, rows = runs(), []
    for cut, label in CUTS.items():
        for name, shown in (LATENCY if cut == "1.5x" else PARAMETERS).items():
            seeds = own[f"{network}-{name}-{cut}"]
            flops = statistics.mean(run["removed"]["flops"][1] for run in seeds) / 1e6
            rows.append(
                [
                    label,
                    shown,
                    cell("{:.1f}", flops),
                    half_range((run["accuracy"] for run in seeds), 2, 100),
                    half_range((run["corruptions"]["mean"] for run in seeds), 1, 100),
                    half_range((run["corruptions"]["relative"] for run in seeds), 3),
                    half_range((run["sharpness"]["one_step"] for run in seeds), 2),
                    half_range((run["seconds"] for run in seeds), 0),
                ]
            )
    measured = ["multiply-adds, million", "clean, %", "corrupted, %", "R_C", "sharpness", "time, s"]
    return Table([NETWORKS[network], "", *measured], rows)


@table("channels-resnet20")
def resnet20() -> Table:
    return study("resnet20")


@table("channels-resnet56")
def resnet56() -> Table:
    return study("resnet56")


@table("channels-sharpness")
def sharpness() -> Table:
    own, rows = runs(), []
    for network, label in NETWORKS.items():
        for name in ("taylor", "adasap"):
            cells: list[str | Cell] = []
            for when in ("before", "after0.4", "after0.6"):
                seeds = own.get(f"{network}-{name}-{when}", [])
                cells.append(_with_accuracy(seeds) if seeds else "not run")
            rows.append([f"{label}, {PARAMETERS[name]}", *cells])
    return Table(["", "before", "after 40 %", "after 60 %"], rows)


def _with_accuracy(seeds: list[dict[str, Any]]) -> Cell:
    sharp, accuracy = (
        [run["sharpness"]["one_step"] for run in seeds],
        [100 * run["accuracy"] for run in seeds],
    )
    if len(seeds) == 1:
        return cell("{:.3f} ({:.1f})", *sharp, *accuracy)
    first, second = half_range(sharp, 3), half_range(accuracy, 1)
    return Cell(f"{first.text} ({second.text})", (*first.figures, *second.figures))


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
    yield "clean accuracy on all 10,000 test images", TEST_IMAGES
    yield "between 10 and 35 % of the run, every 20 steps", STUDY
    yield "on the first 1,000 (ResNet-56: 150) images", STUDY
    yield "of radius 0.1 (the paper's equation 9) on 1,000 training images", STUDY
    yield "Radii were chosen on 2,000 training images held out", STUDY
    yield "SAM 0.05, AdaSAP rho_max and rho 0.25 with rho_min 0.01", STUDY
    yield "one thread, batch 64, turns of", STUDY
    accuracy = record("channels")[0]["corruptions"]["accuracy"]
    extra = record("channels")[0]["corruptions"]["extra"]
    severities = {len(kind) for kind in accuracy.values()}
    yield "{} corruptions at {} severities", len(accuracy), *severities
    yield "the mean over the {} common kinds", len(accuracy) - len(extra)
    yield "turns of dense and small, 41 each", STUDY
    yield "cut for 1.5 times dense", STUDY
    yield "Asked for was 1.5:", STUDY
    yield "the paper's 90 ImageNet epochs", Cited("the AdaSAP paper, its settings for ImageNet")
    yield "(800 and 400 steps", STUDY


@claims(PAGE, SECTION)
def speed_said() -> Iterator[Claim]:
    runs_ = record("channel-speed").values()
    short = [1 - run["contiguous"] / run["predicted"] for run in runs_]
    yield (
        "in contiguous memory the gain falls {} to {} % short of the table's",
        *(100 * min(short), 100 * max(short)),
    )


def mean(name: str, *path: str) -> float:
    """Over the seeds of one network."""
    values: list[Any] = runs()[name]
    for key in path:
        values = [value[key] for value in values]
    return statistics.mean(values)


def gap(first: str, second: str, *path: str) -> float:
    return 100 * (mean(first, *path) - mean(second, *path))


@claims(PAGE, SECTION)
def clean_and_corrupted() -> Iterator[Claim]:
    cells = [f"{network}-{{}}-{cut}" for network in NETWORKS for cut in ("0.4", "0.6")]
    below = [gap(c.format("taylor"), c.format("adasap"), "accuracy") for c in cells]
    yield (
        "At equal parameters it is {} and {} points below Taylor on ResNet-20 (40 and 60 %) and {} "
        "and {} on ResNet-56",
        *below,
    )
    pairs = {n: (f"{n}-adasap-l-1.5x", f"{n}-halp-1.5x") for n in NETWORKS}
    clean, corrupted = (
        [100 * mean(name, *path) for pair in pairs.values() for name in pair]
        for path in (("accuracy",), ("corruptions", "mean"))
    )
    yield (
        "AdaSAP_L against HALP, {} against {} on ResNet-20 and {} against {} on ResNet-56 in clean "
        "accuracy, {} against {} and {} against {} under corruption",
        *(*clean, *corrupted),
    )
    relative = {
        name: [mean(c.format(name), "corruptions", "relative") for c in cells]
        for name in PARAMETERS
    }
    others = [
        [relative[name][i] for name in PARAMETERS if name != "adasap"] for i in range(len(cells))
    ]
    ours = relative["adasap"]
    rest = [one for column in others for one in column]
    yield (
        "({} to {} against {} to {}), by",
        *(min(ours), max(ours), min(rest), max(rest)),
    )
    behind = [one - own for own, column in zip(ours, others, strict=True) for one in column]
    yield "by {} to {}; the seeds differ", min(behind), max(behind)
    ranges = [
        (
            max(r["corruptions"]["relative"] for r in seeds)
            - min(r["corruptions"]["relative"] for r in seeds)
        )
        for name, seeds in runs().items()
        if "corruptions" in seeds[0]
    ]
    yield "the seeds differ by up to {}. In accuracy", max(ranges)


@claims(PAGE, SECTION)
def flat_and_slow() -> Iterator[Claim]:
    def sharp(name: str) -> float:
        return mean(name, "sharpness", "one_step")

    before = [sharp(f"{n}-{m}-before") for n in NETWORKS for m in ("adasap", "taylor")]
    yield "flatter on average ({} against {}, and {} against {})", *before
    keys = ["resnet20-{}-after0.4", "resnet20-{}-after0.6", "resnet56-{}-after0.6"]
    after = [sharp(key.format(m)) for key in keys for m in ("adasap", "taylor")]
    yield (
        "no order: {} against {} and {} against {} on ResNet-20 (40 and 60 %), {} against {} on "
        "ResNet-56",
        *after,
    )
    ranges = [
        max(r["sharpness"]["one_step"] for r in seeds)
        - min(r["sharpness"]["one_step"] for r in seeds)
        for name, seeds in runs().items()
        if "before" in name or "after" in name
    ]
    yield "of one figure differ by up to {}", max(ranges)
    yield "the flattest at 60 % ({} and {})", *(sharp(f"{n}-adasap-0.6") for n in NETWORKS)
    slower = [
        mean(f"{n}-{name}-{cut}", "seconds") / mean(f"{n}-taylor-{cut}", "seconds")
        for n in NETWORKS
        for name in ("adasap", "taylor-sam")
        for cut in ("0.4", "0.6")
    ]
    yield "take {} to {} times as long as SGD", min(slower), max(slower)
