"""The recipes of ImageNet on a small folder of photographs, with small networks of their kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import steppe
from steppe import recipes
from steppe.core.serialization import load_tensors
from steppe.experiment.ending import Ending
from steppe.experiment.recipe import load_recipe
from steppe.removal.channel_groups import coupled_channels
from steppe.removal.latency_table import measure_table
from steppe.vision.augment import Pipeline
from steppe.vision.augment.random_resized_crop import RandomResizedCrop
from steppe.vision.data import load
from steppe.vision.data.base import StreamedSplit
from steppe.vision.loader import Loader
from steppe.vision.models import build

NAMES = [n for n in recipes.names() if n.partition("/")[2].startswith("imagenet-")]
SIDE, BATCH = 32, 8


def test_they_are_those_of_the_papers() -> None:
    assert {name.partition("/")[0] for name in NAMES} == {"adasap", "halp", "pilot", "smcp", "str"}
    networks = {load_recipe(name).model.name for name in NAMES if name.startswith("adasap/")}
    assert len(networks) == 3
    for network in networks:
        of_it = [load_recipe(n) for n in NAMES if load_recipe(n).model.name == network]
        targets = {recipe.channels.target for recipe in of_it}
        assert {"parameters", "latency"} <= targets, network


@pytest.mark.parametrize("name", NAMES)
def test_each_streams_224_of_256_with_random_resized_crops(name: str, photographs: Path) -> None:
    spec = load_recipe(name).data
    assert (spec.size, spec.resize) == (224, 256)
    data = load(
        str(photographs), size=spec.size, resize=spec.resize, augment=spec.augment,
        stream=spec.stream, say=lambda note: None,
    )  # fmt: skip
    assert isinstance(data.train, StreamedSplit)
    assert isinstance(data.augment, Pipeline)
    assert isinstance(data.augment.framing, RandomResizedCrop)


def small(name: str, folder: Path) -> Path:
    """The architecture of a recipe's network, as small as can be, in a folder."""
    hf = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if "mobilenet" in name:
        kind = "MobileNetV1" if "v1" in name else "MobileNetV2"
        config = getattr(hf, f"{kind}Config")(depth_multiplier=0.25, image_size=SIDE, num_labels=4)
    else:
        kind = "ResNet"
        config = hf.ResNetConfig(
            embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], layer_type="bottleneck",
            num_labels=4,
        )  # fmt: skip
    path = folder / kind
    if not path.exists():
        hf.AutoModelForImageClassification.from_config(config).save_pretrained(path)
    return path


def table(model: Path, folder: Path) -> Path:
    """Latencies that are counts of parameters: nothing is truly timed."""
    path = folder / f"{model.name}.json"
    network, x = build(str(model), 4, (3, SIDE, SIDE)), torch.zeros(1, 3, SIDE, SIDE)
    groups = coupled_channels(network, x).groups

    def timer(module: torch.nn.Module, _: Any) -> tuple[float, float, float]:
        return float(sum(p.numel() for p in module.parameters())), 0.0, 0.0

    if not path.exists():
        measure_table(network, x, groups, [1], path=path, passes=1, timer=timer)
    return path


def shortened(name: str, photographs: Path, folder: Path) -> dict[str, Any]:
    """Two epochs of four batches, the learning rate as the batch."""
    plain = load_recipe(name).plain()
    plain["train"]["lr"] *= BATCH / plain["train"]["batch_size"]
    model = small(plain["model"]["name"], folder)
    plain["model"]["name"] = str(model)
    plain["data"] |= {"name": str(photographs), "size": SIDE, "resize": 36, "workers": 0}
    plain["data"] |= {"train_size": 4 * BATCH}
    plain["train"] |= {"epochs": 2, "batch_size": BATCH, "bn_batches": 1, "eval_every": 0}
    plain["train"] |= {"warmup_epochs": 0.5, "checkpoint_steps": 1}
    plain["train"] |= {"mixed_precision": "no", "channels_last": False}
    if "channels" in plain:
        plain["channels"] |= {"round_to": 1}
    if plain.get("channels", {}).get("table"):
        plain["channels"] |= {"table": str(table(model, folder)), "batch": 1}
    if plain["method"].get("cycles"):
        plain["method"]["cycles"] = 2
    if "every" in plain["method"]:
        plain["method"]["every"] = 1
    return plain | {"device": "cpu"}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_two_epochs_and_ends_with_the_same_bits_when_it_was_killed(
    name: str, photographs: Path, networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ending, "all", lambda _: {})  # sizes and times are no part of a recipe
    recipe = shortened(name, photographs, networks)
    record = steppe.train(recipe, tmp_path / "whole")
    assert len(record["metrics"]) == 2
    epoch, given = Loader.epoch, 0

    def dying(self: Loader, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal given
        for batch in epoch(self, number, start):
            given += self.shuffle
            if given > 6:  # one of them looked at which precision is fast
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patched:
        patched.setattr(Loader, "epoch", dying)
        with pytest.raises(KeyboardInterrupt):
            steppe.train(recipe, tmp_path / "killed")
    again = steppe.train(recipe, tmp_path / "killed")
    assert any("resumed after step" in note for note in again["notes"])
    theirs = load_tensors(tmp_path / "killed" / "model.safetensors")
    for key, tensor in load_tensors(tmp_path / "whole" / "model.safetensors").items():
        assert torch.equal(tensor, theirs[key]), key
