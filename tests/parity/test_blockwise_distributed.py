"""Two processes under torchrun prune language models as one process does."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from steppe.core.mask import unpack

WORKER = Path(__file__).with_name("blockwise_worker.py")
SPEC = importlib.util.spec_from_file_location("blockwise_worker", WORKER)
assert SPEC is not None
assert SPEC.loader is not None
worker = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(worker)

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="torch without gloo")

LAUNCH = "-m torch.distributed.run --standalone --nproc-per-node 2"
DENSE_START = 2 * 4 * 2e-4
"""Adam's four steps of at most the learning rate, in opposite directions: see STARTED."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, language_model: Path, word_text: Path) -> Path:
    """A LLaMA, a mixture of experts and a text."""
    from transformers import MixtralConfig, MixtralForCausalLM

    place = tmp_path_factory.mktemp("blockwise")
    shutil.copy(word_text, place / "words.txt")
    shutil.copytree(language_model, place / "llama")
    config = MixtralConfig(
        vocab_size=26,
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=6,
        num_experts_per_tok=2,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        MixtralForCausalLM(config).save_pretrained(place / "mixture")
    for path in (place / "llama").glob("tokenizer*"):
        shutil.copy(path, place / "mixture")
    return place


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    """What two processes wrote: a folder per case."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [
            sys.executable,
            *LAUNCH.split(),
            "--rdzv-endpoint",
            "localhost:0",
            str(WORKER),
            str(folder),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return folder / "two"


def read(out: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Weights, masks, record."""
    weights: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for path in sorted(out.glob("model-*.safetensors")):
        weights |= load_file(path)
    for path in sorted(out.glob("masks-*.safetensors")):
        masks |= unpack(load_file(path))
    return weights, masks, json.loads((out / "record.json").read_text())


def blocks_before_a_flip(flipped: dict[str, int], record: dict[str, Any]) -> int:
    """How many blocks come before the first one in which a mask fell the other way."""
    flips = [any(flipped[x["name"]] for x in row["layers"]) for row in record["blocks"]]
    return [*flips, True].index(True)


@pytest.mark.parametrize("case", worker.CASES)
def test_two_processes_give_what_one_gives(case: str, folder: Path, two: Path) -> None:
    worker.run(case, folder, folder / "one" / case)
    weights, masks, record = read(folder / "one" / case)
    weights2, masks2, record2 = read(two / case)
    assert record2["processes"] == 2
    assert weights.keys() == weights2.keys()
    assert masks.keys() == masks2.keys()
    total = sum(m.numel() for m in masks.values())
    flipped = {n: int((masks2[n] != m).sum()) for n, m in masks.items()}
    # where two saliencies are equal to the last digits, each may keep another
    assert sum(flipped.values()) <= 1e-3 * total
    tolerance = DENSE_START if case == "safe" else 1e-5
    same, blocks = blocks_before_a_flip(flipped, record), len(record["blocks"])
    after = tuple(f".layers.{i}." for i in range(same, blocks))
    for name, weight in weights.items():
        if not any(block in name for block in after):
            assert float((weights2[name] - weight).abs().max()) <= tolerance, name
    # what follows a tie is another network, as good as this one
    for which in ("dense", *(["sparse"] if same == blocks else [])):
        perplexity, perplexity2 = (r[which]["perplexity"] for r in (record, record2))
        assert abs(perplexity2 / perplexity - 1) < 1e-3
    assert record["sparse"]["perplexity"] != pytest.approx(record["dense"]["perplexity"], rel=1e-4)
    assert record["sparsity_reached"] == record2["sparsity_reached"] == 0.5
    zeros = sum(int((weights2[n] == 0).sum()) for n in weights2 if ".layers." in n)
    assert zeros == round(0.5 * total)


def test_the_split_is_seen_in_the_records(two: Path) -> None:
    for case in ("mixture", "mixture-one-window"):
        notes = read(two / case)[2]["fallbacks"]
        # rank 1 has no window at all, and yet knows what rank 0 saw
        few = [note for note in notes if "fewer than its" in note]
        assert len(few) <= 1, "said once for a run, whoever saw it"
        assert all("no calibration token" in note for note in notes if note not in few)
    assert len(read(two / "mixture-one-window")[2]["fallbacks"]) < 2 * 2 * 6
