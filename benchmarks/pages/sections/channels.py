"""Channels that go: AdaSAP beside Taylor, magnitude and HALP."""

from __future__ import annotations

import statistics
from typing import Any

from ..cells import Cell, Table, cell, half_range
from ..registry import table
from ..sources import grouped, record

NETWORKS = {"resnet20": "ResNet-20", "resnet56": "ResNet-56"}
PARAMETERS = {"magnitude": "magnitude + SGD", "taylor": "Taylor + SGD"}
PARAMETERS |= {"taylor-sam": "Taylor + SAM", "adasap": "AdaSAP_P"}
LATENCY = {"halp": "HALP", "adasap-l": "AdaSAP_L"}
CUTS = {"0.4": "40 % fewer parameters", "0.6": "60 %", "1.5x": "1.5x asked for"}


def runs() -> dict[Any, list[dict[str, Any]]]:
    """By their names, without the seed."""
    rows = record("channels")
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
