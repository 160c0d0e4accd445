"""steppe prune, killed at any moment and started again, ends with the same bits."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nursery import KILLED, Nursery

Start = Callable[..., dict[str, Any]]

CASES = {
    "sparsegpt": "--method sparsegpt",
    "sparsegpt-owl": "--method sparsegpt --budget owl",
    "safe": "--method safe --epochs 2 --warmup-epochs 0 --batch-size 4",
    "safe_plus-apart": (
        "--method safe_plus --epochs 2 --warmup-epochs 0 --batch-size 4"
        " --set objective.apart=true --set objective.start=hard_mask"
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, language_model: Path) -> Path:
    """A LLaMA of three blocks."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("three-blocks")
    for path in language_model.glob("tokenizer*"):
        shutil.copy(path, folder)
    config = LlamaConfig(
        vocab_size=26,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def start(model: Path, word_text: Path) -> Iterator[Start]:
    """Runs a case in a process of its own, which may be killed."""
    texts = ["--calibration", str(word_text), "--evaluate", str(word_text)]
    common = (
        "--sparsity 0.5 --samples 6 --window 16 --evaluate-window 32 --micro-batch 4 --measure 4"
    )
    arguments = ["prune", str(model), *texts, *common.split(), "--device", "cpu"]
    # a figure that an earlier run remembered would be fewer operations
    arguments += ["--precision", "float32", "--no-remember"]

    with Nursery("steppe.llm.prune", "transformers.models.llama.modeling_llama") as nursery:

        def run(flags: str, out: Path, **when: Any) -> dict[str, Any]:
            return nursery.run([*arguments, *flags.split(), "--out", str(out)], out, **when)

        yield run


@pytest.fixture(scope="module")
def whole(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Case -> folder of an undisturbed run, its operations on files and its seconds."""
    done: dict[str, tuple[Path, int, float]] = {}

    def of(case: str) -> tuple[Path, int, float]:
        if case not in done:
            out = tmp_path_factory.mktemp("whole") / case
            began = time.perf_counter()
            answer = start(CASES[case], out)
            assert answer["code"] == 0, answer["said"]
            done[case] = out, answer["operations"], time.perf_counter() - began
        return done[case]

    return of


def timeless(record: Any) -> Any:
    """A record without what differs between two runs of the same."""
    if isinstance(record, dict):
        return {
            k: timeless(v)
            for k, v in record.items()
            if not k.startswith("seconds") and k != "peak_memory_bytes"
        }
    return [timeless(x) for x in record] if isinstance(record, list) else record


def same(a: Path, b: Path) -> None:
    """Two folders hold the same, bit for bit, and nothing that was only for the way."""
    names = [sorted(str(p.relative_to(f)) for p in f.rglob("*")) for f in (a, b)]
    assert names[0] == names[1]
    assert len([n for n in names[0] if n.endswith(".safetensors")]) == 4 + 3
    assert not [n for n in names[0] if n.endswith((".bin", ".partial"))]
    for name in names[0]:
        if name == "record.json":
            one, two = (json.loads((f / name).read_text()) for f in (a, b))
            assert timeless(one) == timeless(two)
            assert len(json.dumps(timeless(one))) > 2000
        elif (a / name).is_file() and not name.startswith("checkpoints"):
            assert (a / name).read_bytes() == (b / name).read_bytes(), name


@pytest.mark.parametrize("case", ["sparsegpt-owl", "safe_plus-apart"])
def test_killed_between_any_two_operations_on_files(
    case: str, start: Start, whole: Any, tmp_path: Path
) -> None:
    out, operations, _ = whole(case)
    assert operations > 100
    step = operations // 14
    first = list(CASES).index(case) % step  # the cases try different moments
    for kill in range(first, operations, step):
        place = tmp_path / str(kill)
        answer = start(CASES[case], place, kill=kill)
        assert answer["code"] == KILLED, answer["said"]
        answer = start(CASES[case], place)
        assert answer["code"] == 0, f"after {kill} operations: {answer['said']}"
        same(out, place)


@pytest.mark.parametrize("case", ["sparsegpt", "safe"])
def test_killed_again_and_again(case: str, start: Start, whole: Any, tmp_path: Path) -> None:
    out, operations, _ = whole(case)
    draw, kills, place = random.Random(1), 0, tmp_path / case
    while kills < 10:
        answer = start(CASES[case], place, kill=draw.randrange(operations // 3))
        if answer["code"] == 0:
            break
        assert answer["code"] == KILLED, answer["said"]
        kills += 1
    assert kills > 3
    assert start(CASES[case], place)["code"] == 0
    same(out, place)


@pytest.mark.parametrize("case", ["sparsegpt", "safe"])
def test_killed_at_random_moments(case: str, start: Start, whole: Any, tmp_path: Path) -> None:
    out, _, seconds = whole(case)
    draw, place = random.Random(2), tmp_path / case
    for _ in range(10):
        # how many of them meet a living process depends on the machine, the end does not
        if start(CASES[case], place, seconds=draw.uniform(0.1, 0.6) * seconds)["code"] == 0:
            break
    assert start(CASES[case], place)["code"] == 0
    same(out, place)


def test_a_finished_folder_is_left_alone(start: Start, whole: Any, tmp_path: Path) -> None:
    done = tmp_path / "done"
    shutil.copytree(whole("sparsegpt")[0], done)
    before = {p: p.stat().st_mtime_ns for p in done.rglob("*")}
    answer = start(CASES["sparsegpt"] + " --json", done)
    assert answer["code"] == 0
    record = json.loads(next(x for x in answer["said"].splitlines() if x.startswith("{")))
    assert record["sparsity_reached"] == 0.5
    assert {p: p.stat().st_mtime_ns for p in done.rglob("*")} == before
    answer = start(CASES["sparsegpt"] + " --sparsity 0.6 --seed 1", done)
    assert answer["code"] == 2
    assert (
        "differs in calibration.seed, calibration.sha256, method.budget.sparsity, seed"
        in (answer["said"])
    )
    assert {p: p.stat().st_mtime_ns for p in done.rglob("*")} == before
