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


def run(method: str, sparsity: float, data: str) -> dict[str, Any]:
    return {
        "method": method,
        "seed": 0,
        "sparsity_asked": sparsity,
        "sparse": {"accuracy": 0.5},
        "recipe": {"data": {"name": data}},
    }


@pytest.mark.parametrize("data", DATA)
def test_a_data_set_by_the_names_it_has(data: str) -> None:
    runs = [
        run(method, zeros, data)
        for method, zeros in (("safe", 0.95), ("pilot", 0.9), ("adasap", 0.4), ("safe", 0.995))
    ]
    settings = {line[1].split(", ")[1] for line in beside(runs, Rows.from_records(runs))}
    assert settings == ({DATA[data]} if DATA[data] else set())
