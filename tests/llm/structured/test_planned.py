"""What a plan says of a model of which something goes, beside what the run makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mixture_models
from language_models import Saved, build, windows
from steppe import SteppeError, methods
from steppe.llm import plan_trial
from steppe.llm.checkpoint import Checkpoint
from steppe.llm.plan import lines, plan
from steppe.llm.prepare import PreparedPruning
from steppe.llm.prune import prune
from steppe.llm.prune_config import PruneConfig
from steppe.llm.skeleton import read_config
from steppe.llm.structured.block_trials import StreamedTrials
from steppe.llm.structured.latency import GenerationTable
from steppe.llm.structured.shape import Shape
from steppe.method import Method

MERGING = methods.reap(sparsity=0.375).replace(coupling="merge_experts")
REMOVALS = {
    "slim": ("llama", methods.slim(sparsity=0.5)),
    "neurons": ("qwen2", methods.slim(sparsity=0.25, structure="neurons")),
    "flap": ("llama", methods.flap(sparsity=0.5)),
    "neurons of experts": ("mixtral", methods.slim(sparsity=0.34, structure="neurons")),
    "depth": ("llama", methods.depth(sparsity=0.5)),
    "tied": ("gpt2", methods.depth(sparsity=0.5)),
    "reap": ("mixtures mixtral", methods.reap(sparsity=0.375)),
    "some blocks": ("mixtures deepseek-v3", methods.reap(sparsity=0.375)),
    "merged": ("mixtures qwen3-moe", MERGING),
    "no text": ("mixtures mixtral", methods.reap(sparsity=0.25, score="magnitude")),
}


def of_either(name: str) -> Any:
    """A dense model, or one of the mixtures."""
    kind, _, mixture = name.partition(" ")
    return mixture_models.build(mixture) if mixture else build(kind)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory, of_either)


def ask(
    model: Path, method: Method, out: Path, tokens: Tensor | None, **options: Any
) -> PreparedPruning:
    config = PruneConfig.of(out=out, device="cpu", calibration=tokens, micro_batch=2, **options)
    return PreparedPruning(str(model), method, config)


@pytest.mark.parametrize("name", REMOVALS)
def test_a_plan_tells_what_the_run_leaves(name: str, saved: Saved, tmp_path: Path) -> None:
    kind, method = REMOVALS[name]
    tokens = windows() if name != "no text" else None
    prepared = ask(saved(kind), method, tmp_path / "runs" / "out", tokens)
    random = torch.get_rng_state()
    planned = plan(prepared)
    assert not list(tmp_path.iterdir()), "a plan leaves nothing behind"
    assert torch.equal(torch.get_rng_state(), random)
    record = prune(saved(kind), method, tokens, tmp_path / "out")
    shape = planned["shape"]
    for plan_of, made in (("before", "dense"), ("after", "sparse")):
        assert shape[plan_of]["parameters"] == record[made]["parameters"]
    weights = Checkpoint(tmp_path / "out").headers().values()
    stored = sum(shape.numel() * dtype.itemsize for dtype, shape in weights)
    assert shape["after"]["bytes"] == stored
    assert not shape["at_most"]
    seconds = planned["seconds"]
    assert seconds["all"] == pytest.approx(sum(v for k, v in seconds.items() if k != "all"))
    assert min(seconds.values()) >= 0.0
    assert seconds["cut"] > 0.0
    said = "\n".join(lines(planned, prepared.out))
    assert f"parameters: {record['sparse']['parameters']:,} of" in said
    assert "will be zero" not in said
    assert "packed" not in said
    assert ("masks" in said) == prepared.masks
    assert "seconds" not in plan(prepared, dry_run=False)


@pytest.mark.parametrize("budget", ["block_loss", "block_influence"])
@pytest.mark.parametrize("greedy", [True, False])
def test_passes_are_counted_as_the_run_makes_them(
    budget: str, greedy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build("llama", num_hidden_layers=4).save_pretrained(tmp_path / "model")
    spec = {"name": budget, "greedy": greedy, "tokens": 41}  # three of six windows
    method = methods.depth(sparsity=0.5, budget=spec)
    prepared = ask(tmp_path / "model", method, tmp_path / "out", windows())
    times = {"load": 100.0, "pass": 1.0, "look": 1.0, "head": 0.0, "write": 0.0}
    monkeypatch.setattr("steppe.llm.structured.choices.blocks.called_block", lambda prepared: times)
    planned = plan(prepared)
    through: list[int] = []
    call = StreamedTrials._through

    def counted(self: Any, index: int, states: Any, slot: int, part: slice) -> Tensor:
        through.append(part.stop - part.start)
        return call(self, index, states, slot, part)

    monkeypatch.setattr(StreamedTrials, "_through", counted)
    prune(tmp_path / "model", method, windows(), tmp_path / "out", micro_batch=2)
    assert planned["seconds"]["passes"] == sum(through)
    found = f"found in {'2 rounds' if greedy else '1 round'}: {sum(through) // 3} passes of 3 "
    assert planned["steps"][0].startswith(found)


def test_blocks_of_several_sizes_leave_at_most_so_much(tmp_path: Path) -> None:
    build("deepseek-v3", num_hidden_layers=3).save_pretrained(tmp_path / "model")
    method = methods.depth(sparsity=0.34)
    prepared = ask(tmp_path / "model", method, tmp_path / "out", windows())
    planned = plan(prepared, dry_run=False)
    blocks = prepared.model.blocks
    least = min(sum(p.numel() for p in block.parameters()) for block in blocks)
    assert planned["shape"]["at_most"]
    assert planned["shape"]["after"]["parameters"] == prepared.model.parameters() - least
    said = lines(planned, prepared.out)
    assert said[0] == "depth: cut to 2 of 3 blocks, of 3 blocks"
    assert said[1].startswith("  parameters: at most ")


def test_disk_is_that_of_the_smaller_model(saved: Saved, tmp_path: Path) -> None:
    out = tmp_path / "out"
    depth = plan(ask(saved("llama"), methods.depth(sparsity=0.5), out, windows()), dry_run=False)
    assert "masks" not in depth["disk_bytes"]
    assert "masks" not in depth["memory_bytes"]
    assert depth["disk_bytes"]["shards"] == depth["shape"]["after"]["bytes"]
    slim = plan(ask(saved("llama"), methods.slim(sparsity=0.5), out, windows()), dry_run=False)
    assert slim["disk_bytes"]["the smaller model"] == slim["shape"]["after"]["bytes"]
    assert slim["disk_bytes"]["shards"] > slim["shape"]["after"]["bytes"]
    merged = plan(ask(saved("mixtures qwen3-moe"), MERGING, out, windows()), dry_run=False)
    assert "the model as it is on the way" in merged["disk_bytes"]


def test_what_does_not_fit_is_refused(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = ask(saved("llama"), methods.slim(sparsity=0.5), tmp_path / "out", windows())
    disk = plan(prepared, dry_run=False)["disk_bytes"]
    room = disk["all"] - disk["the smaller model"]
    there = {"host": 10**15, "disk": room}
    monkeypatch.setattr("steppe.llm.memory.available", lambda out, device: there)
    with pytest.raises(SteppeError, match=r"must fit in the disk") as refused:
        plan(prepared)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "method", "said"),
    [
        ("llama", methods.depth(sparsity=0.1), "one block at least goes"),
        ("mixtures deepseek-v3", methods.reap(sparsity=0.75), "3 experts"),
        ("gpt2", methods.slim(sparsity=0.25), "--structure neurons"),
    ],
)
def test_what_cannot_be_is_refused_as_the_run_refuses_it(
    kind: str, method: Method, said: str, saved: Saved, tmp_path: Path
) -> None:
    with pytest.raises(SteppeError, match=said) as refused:
        plan(ask(saved(kind), method, tmp_path / "out", windows()))
    assert "\n" not in str(refused.value)


def test_a_text_is_evaluated(language_model: Path, word_text: Path, tmp_path: Path) -> None:
    options = {"evaluate": [str(word_text)], "evaluate_window": 16}
    tokens = torch.randint(26, (4, 16))
    method = methods.depth(sparsity=0.5)
    planned = plan(ask(language_model, method, tmp_path / "out", tokens, **options))
    assert planned["seconds"]["evaluate"] > 0


def test_the_shape_before_and_after(language_model: Path, tmp_path: Path) -> None:
    method = methods.slim(sparsity=0.5)
    prepared = ask(language_model, method, tmp_path / "out", torch.randint(26, (4, 8)))
    planned = plan(prepared, dry_run=False)
    shape = planned["shape"]
    assert shape["before"]["said"] == "2 blocks, 20 neurons, 2 heads"
    assert shape["after"]["said"] == "2 blocks, 10 neurons, 1 heads"
    resized = Shape.of(read_config(language_model)).resized(neurons=10, heads=1)
    assert shape["after"]["parameters"] == resized.parameters
    assert "total_ms" not in shape["after"]
    first, *_ = said = lines(planned, tmp_path / "out")
    assert first == "slim: cut to 2 blocks, 10 neurons, 1 heads, of 2 blocks, 20 neurons, 2 heads"
    assert any("steppe latency MODEL" in line for line in said)


@pytest.mark.parametrize(
    ("method", "token"),
    [(methods.slim(sparsity=0.5), 42.0), (methods.depth(sparsity=0.5), 42.0)],
    ids=["slim", "depth"],
)
def test_times_come_from_a_table(
    method: Method, token: float, language_model: Path, tmp_path: Path
) -> None:
    whole = Shape.of(read_config(language_model))
    conditions = {"device": "abacus", "threads": 2, "dtype": "float32", "cache": 10**6}
    axes = {"neurons": [10, 20], "heads": [1, 2]}
    table = GenerationTable(conditions, 8, 5, whole, axes, path=tmp_path / "table.json")
    for name, shape, every_word in table.wanted():
        each = 1.0 + every_word + shape.blocks * (shape.neurons + 10 * shape.heads)
        table.points[name] = {"prompt": [4 * each], "token": [each]}
    table.write()
    prepared = ask(language_model, method, tmp_path / "out", torch.randint(26, (4, 8)))
    planned = plan(prepared, dry_run=False, latency_table=tmp_path / "table.json")
    shape = planned["shape"]
    assert shape["before"]["token_ms"] == 82.0
    assert shape["after"]["token_ms"] == pytest.approx(token)
    assert shape["after"]["total_ms"] == pytest.approx(token * 8)
    assert shape["measured"]["threads"] == 2
    said = "\n".join(lines(planned, tmp_path / "out"))
    assert "a prompt of 8 and 5 tokens: 336 of 656 ms, 23.81 tokens/s instead of 12.2" in said
    assert "measured on abacus, 2 threads, float32" in said


def test_trials_leave_the_model_as_it_was(saved: Saved, tmp_path: Path) -> None:
    prepared = ask(saved("llama"), methods.depth(sparsity=0.5), tmp_path / "out", windows())
    prepared.decide()
    taken = plan_trial.called_block(prepared, 1)
    assert {"load", "pass", "look", "head", "write"} == set(taken)
    assert all(p.is_meta for p in prepared.model.blocks.parameters())
