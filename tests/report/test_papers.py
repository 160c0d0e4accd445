"""The papers' numbers stand beside runs on the same data, and beside no others."""

from __future__ import annotations

from typing import Any

import pytest

from steppe.report.papers import beside
from steppe.report.table import Rows

DATA = {
    "ILSVRC/imagenet-1k": "ImageNet",
    "timm/imagenet-1k-wds": "ImageNet",
    "../data/imagenet": "ImageNet",
    "imagenet/train": "ImageNet",
    "ILSVRC2012/ImageNet_2012": "ImageNet",
    "zh-plus/tiny-imagenet": "",
    "timm/imagenet-22k-wds": "",
    "imagenet-100": "",
    "imagenet-v2": "",
    "uoft-cs/cifar10": "CIFAR-10",
    "../data/cifar10-jpeg": "CIFAR-10",
    "uoft-cs/cifar100": "CIFAR-100",
    "digits": "",
}


def run(method: str, sparsity: float, data: str, target: str = "") -> dict[str, Any]:
    return {
        "method": method,
        "seed": 0,
        "sparsity_asked": sparsity,
        "sparse": {"accuracy": 0.5},
        "recipe": {"data": {"name": data}} | ({"channels": {"target": target}} if target else {}),
    }


@pytest.mark.parametrize("data", DATA)
def test_a_data_set_by_the_names_it_has(data: str) -> None:
    runs = [
        *(run("safe", zeros, data) for zeros in (0.95, 0.995)),
        run("adasap", 0.7, data, "latency"),
    ]
    settings = {line[1].split(", ")[1] for line in beside(runs, Rows.from_records(runs))}
    assert settings == ({DATA[data]} if DATA[data] else set())


@pytest.mark.parametrize(
    ("target", "beside_it"),
    [("latency", "for latency"), ("parameters", "parameters gone"), ("flops", ""), ("", "")],
)
def test_a_share_stands_beside_the_same_share_of_the_same(target: str, beside_it: str) -> None:
    runs = [run("halp", 0.7, "imagenet", target), run("magnitude", 0.8, "imagenet", target)]
    settings = {line[1].split(", ", 2)[2] for line in beside(runs, Rows.from_records(runs))}
    assert all(beside_it in setting for setting in settings)
    assert bool(settings) == bool(beside_it)
