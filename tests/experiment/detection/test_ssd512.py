"""SSD512 on ResNet-50, whole: it learns, its channels go, and the papers' recipes train it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import steppe
import voc_folder
from steppe.core.group import Group
from steppe.experiment.ending import Ending
from steppe.experiment.read import read_plain
from steppe.experiment.tasks import task_of
from steppe.removal.channel_groups import coupled_channels
from steppe.removal.forward_timing import conditions
from steppe.removal.latency_table import measure_table
from steppe.vision.detection.models import build
from steppe.vision.detection.models.ssd import SSD
from steppe.vision.detection.targets import padded

SIDE = 264
"""Enough pixels for all seven maps; a step at 512 takes four times as long."""


@pytest.fixture(scope="module")
def detector() -> SSD:
    torch.manual_seed(0)
    return build("ssd512_resnet50", 20, (3, 512, 512))


@pytest.fixture(scope="module")
def groups(detector: SSD) -> list[Group]:
    return coupled_channels(detector.eval(), torch.zeros(1, 3, 512, 512), prove=False).groups


def test_loss_and_gradient_at_512(detector: SSD) -> None:
    there = padded([torch.tensor([[0.1, 0.1, 0.5, 0.6, 3, 0], [0.4, 0.5, 0.45, 0.6, 19, 0]])])
    outputs = detector.eval()(torch.randn(1, 3, 512, 512))
    assert outputs.shape == (1, 24_564, 4 + 1 + 20)
    detector.reading.loss(outputs, there).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    detector.zero_grad()


def test_every_channel_but_those_of_the_heads_has_a_group(
    detector: SSD, groups: list[Group]
) -> None:
    # the stem, three streams, two in each of 13 blocks, two in each of six extra layers
    assert len(groups) == 1 + 3 + 2 * 13 + 2 * 6
    outputs = {s.name for group in groups for s in group.slices if s.role == "output"}
    convolutions = {name for name, p in detector.named_parameters() if p.ndim == 4}
    heads = {name for name in convolutions if name.startswith(("offsets.", "classes."))}
    assert convolutions - outputs == heads


def test_without_a_third_of_its_channels_it_computes_the_same(
    detector: SSD, groups: list[Group]
) -> None:
    torch.manual_seed(1)
    model, x = detector.eval(), torch.randn(1, 3, 512, 512)
    kept = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        tensors = dict(model.named_parameters())
        for group in groups:
            gone = torch.arange(group.units) % 3 == 1
            for own in group.slices:
                if own.role == "output":
                    tensors[own.name].index_fill_(own.dim, own.index[gone].flatten(), 0.0)
        wanted = model(x)
        done = steppe.remove(model, x, groups=groups)
        got = done.model.eval()(x)
        for name, p in model.named_parameters():
            p.copy_(kept[name])
    before, after = done.report["parameters"]
    assert after < 0.5 * before
    torch.testing.assert_close(got, wanted, atol=1e-3, rtol=1e-3)


def _counted(module: nn.Module, _: Any) -> tuple[float, float, float]:
    """Nothing is truly timed."""
    return float(sum(p.numel() for p in module.parameters())), 0.0, 0.0


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "ssd512.json"
    model = build("ssd512_resnet50", 2, (3, SIDE, SIDE))
    here = conditions(model)
    own = coupled_channels(model, torch.zeros(1, 3, SIDE, SIDE), prove=False).groups
    with torch.device("meta"):  # layers of all widths, and no value of theirs
        model, x = model.to("meta"), torch.zeros(1, 3, SIDE, SIDE)
        table = measure_table(model, x, own, [1], round_to=8, passes=1, timer=_counted)
    table.conditions, table.path = here, path
    table.write()
    return path


@pytest.mark.parametrize("name", ["adasap/voc-ssd512", "halp/voc-ssd512"])
def test_a_recipe_of_the_papers_takes_two_steps(
    name: str, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ending, "all", lambda _: {})  # sizes and times are no part of a recipe
    root = voc_folder.write(tmp_path / "voc", train=2, test=1)
    data, path = read_plain(name)
    plain = task_of(data, path.parent).load(data, name, path.parent).plain()
    assert plain["channels"]["target"] == "latency"
    assert plain["train"]["epochs"] == 800
    assert plain["train"]["batch_size"] == 128
    plain["data"] |= {"name": f"voc:{root}", "size": SIDE, "workers": 0}
    plain["channels"] |= {"table": str(table)}
    plain["method"] |= {"every": 1, "sparsity": 0.3}
    ends = {"pruned": 0.5, "end": 0.5}
    plain["method"] |= {key: value for key, value in ends.items() if key in plain["method"]}
    plain["method"] |= {"warmup": 0.0} if "warmup" in plain["method"] else {}
    plain["train"] |= {"epochs": 2, "batch_size": 2, "warmup_epochs": 1, "bn_batches": 0}
    plain["train"] |= {"mixed_precision": "no", "channels_last": False, "lr_steps": []}
    record = steppe.train(plain | {"device": "cpu"}, tmp_path / "run")
    assert record["sparsity_reached"] >= 0.3
    assert record["units_zeroed"] > 0
    assert len(record["metrics"]) == 2
