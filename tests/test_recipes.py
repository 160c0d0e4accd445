"""Every recipe that comes with steppe is whole, trains, and says in one sentence what it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import steppe
from steppe import recipes
from steppe.experiment.ending import Ending
from steppe.experiment.read import read_plain
from steppe.experiment.recipe import Recipe, load_recipe, parse
from steppe.experiment.tasks import task_of
from steppe.removal.channel_groups import coupled_channels
from steppe.removal.latency_table import measure_table
from steppe.vision.models import MODELS, build


def _plain(name: str) -> tuple[dict[str, Any], Path]:
    data, path = read_plain(name)
    return data, path.parent


EVERY = recipes.names()
NAMES = [n for n in EVERY if task_of(*_plain(n)).name == "image"]


def test_every_recipe_builds_its_method() -> None:
    seen = set()
    for name in EVERY:
        data, folder = _plain(name)
        made = task_of(data, folder).load(data, name, folder)
        made.build_method()
        made.train.config()
        assert made.name, f"{name} gives its runs no name"
        assert made.name not in seen, f"{name} needs a name of its own"
        seen.add(made.name)


def test_the_first_line_of_each_is_a_sentence() -> None:
    for name in EVERY:
        first = recipes.path_of(name).read_text().splitlines()[0]
        assert re.fullmatch(r"# .{20,106}[.]", first), f"{name}: {first}"


def test_a_name_may_end_as_its_file_does() -> None:
    assert recipes.path_of("digits.yaml") == recipes.path_of("digits")


def test_every_network_of_steppe_takes_the_recipes_options() -> None:
    seen = []
    for name in NAMES:
        model, size = load_recipe(name).model, load_recipe(name).data.size or 32
        if model.name in MODELS and (model, size) not in seen:
            seen.append((model, size))
            network = build(model.name, 10, (3, size, size), **model.options)
            assert network.eval()(torch.zeros(1, 3, size, size)).shape == (1, 10), name


def _tiny(made: Recipe, folder: Path) -> Recipe:
    """The recipe with two steps on digits, of a network like its own and as small as can be."""
    plain = made.plain()
    transformer = "vit" in made.model.name
    plain["model"] = {"name": str(_vit(folder)) if transformer else "small-cnn"}
    plain["data"] = {"name": "digits", "train_size": 32, "test_size": 16, "augment": "none"}
    if "label_noise" in made.plain()["data"]:
        plain["data"]["label_noise"] = made.plain()["data"]["label_noise"]
    if "channels" in plain:
        plain["channels"] = {"target": plain["channels"]["target"], "round_to": 1}
    if plain.get("channels", {}).get("target") == "latency":
        plain["channels"] |= {"table": str(_table(folder)), "batch": 1}
    if "cycles" in plain["method"]:
        plain["method"]["cycles"] = 2
    plain["train"] |= {
        "epochs": plain["method"].get("cycles") or 1,
        "batch_size": 16,
        "bn_batches": 1,
        "eval_every": 0,
        "warmup_epochs": 0,
        "mixed_precision": "no",
        "channels_last": False,
        "checkpoint_steps": None,
    }
    return parse(plain | {"device": "cpu"})


def _table(folder: Path) -> Path:
    """The latencies of the small network: nothing is truly timed."""
    path = folder / "table.json"
    model, x = build("small-cnn", 10, (1, 8, 8)), torch.zeros(1, 1, 8, 8)
    groups = coupled_channels(model, x).groups

    def timer(module: torch.nn.Module, _: Any) -> tuple[float, float, float]:
        return float(sum(p.numel() for p in module.parameters())), 0.0, 0.0

    measure_table(model, x, groups, [1], path=path, passes=1, timer=timer)
    return path


def _vit(folder: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=32, num_labels=10,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    return folder


def test_what_the_papers_ran_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods that are alike but for numbers are tried once; other tests train the small ones."""
    monkeypatch.setattr(Ending, "all", lambda _: {})  # sizes and times are no part of a recipe
    seen = set()
    for name in (n for n in NAMES if "-" in n and "small" not in n and "robustness" not in n):
        made = load_recipe(name)
        method = made.build_method()
        keys = (
            made.channels.target,
            *method.parts.values(),
            made.train.optimizer_groups,
            made.train.optimizer,
        )
        kind = tuple(getattr(key, "name", None) or str(key) for key in keys)
        if kind in seen:
            continue
        seen.add(kind)
        record = steppe.train(_tiny(made, tmp_path))
        if method.sparsity and not method.structure.whole_outputs:
            assert record["sparsity_reached"] == pytest.approx(method.sparsity, abs=0.01), name
    assert len(seen) > 9
