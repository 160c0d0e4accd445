"""What a plan says of a model of which something goes, beside what the run makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import mixture_models
from language_models import Saved, build, windows
from steppe import SteppeError, methods
from steppe.llm import plan_trial, pruning_run
from steppe.llm.checkpoint import Checkpoint
from steppe.llm.plan import lines, plan
from steppe.llm.prepare import PreparedPruning
from steppe.llm.prune import prune
from steppe.llm.prune_config import PruneConfig
from steppe.llm.skeleton import read_config
from steppe.llm.structured.block_trials import StreamedTrials
from steppe.llm.structured.latency import GenerationTable
from steppe.llm.structured.shape import Shape
from steppe.llm.structured.weighing import offers
from steppe.llm.structured.weighing_work import counted
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
    "hidden": ("llama", methods.hidden(sparsity=0.25)),
    "hidden, tied": ("qwen2", methods.hidden(sparsity=0.5)),
    "hidden, norms of heads": ("qwen3", methods.hidden(sparsity=0.25)),
    "hidden, experts": ("deepseek-v3", methods.hidden(sparsity=0.5)),
    "hidden, unfitted": ("llama", methods.hidden(sparsity=0.25, scale=False, fit=False)),
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


def stored_in(folder: Path) -> int:
    """Bytes of a model's tensors."""
    weights = Checkpoint(folder).headers().values()
    return sum(shape.numel() * dtype.itemsize for dtype, shape in weights)


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
    assert shape["after"]["bytes"] == stored_in(tmp_path / "out")
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


def searching(kinds: str = "neurons+heads", sparsity: float = 0.5, **more: Any) -> Method:
    plain = {"name": "depth_and_width", "of": kinds.split("+")} | more
    return methods.slim(sparsity=sparsity, structure=plain)


SEARCHED = {
    "llama": ("neurons+heads", 0.5),
    "qwen3": ("neurons+heads", 0.3),
    "gpt2": ("neurons", 0.4),
    "mixtral": ("neurons", 0.3),
}


def mixed(name: str) -> Any:
    """A model of four blocks whose norms are stored in another dtype than the rest."""
    model = build(name, num_hidden_layers=4).to(torch.bfloat16)
    for module in model.modules():
        if "Norm" in type(module).__name__:
            module.float()
    return model


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory, mixed)


def left_by(model: Path, shape: Shape, kinds: str, out: Path) -> dict[str, int]:
    """Parameters and bytes of the model that a run makes of a shape."""
    counts = [shape.blocks, shape.neurons, shape.heads]
    record = prune(model, searching(kinds, shapes=[counts], tried=1, levels=1), windows(), out)
    return {"parameters": record["sparse"]["parameters"], "bytes": stored_in(out)}


@pytest.mark.parametrize("name", SEARCHED)
def test_of_depth_and_width_a_plan_tells_what_may_be_left(
    name: str, deep: Saved, tmp_path: Path
) -> None:
    """Both ends are what runs make that are told the smallest and the largest shape."""
    model, (kinds, sparsity) = deep(name), SEARCHED[name]
    method = searching(kinds, sparsity, tried=2, levels=2)
    prepared = ask(model, method, tmp_path / "runs" / "out", windows())
    planned = plan(prepared)
    assert not list(tmp_path.iterdir()), "a plan leaves nothing behind"
    known = planned["shape"]["offers"]
    found = sorted(offers(prepared), key=lambda shape: shape.parameters)
    assert known["count"] == len(found) > 1
    ends = [
        left_by(model, shape, kinds, tmp_path / shape.said()) for shape in (found[0], found[-1])
    ]
    for key in ("parameters", "bytes"):
        assert known[key] == [end[key] for end in ends]
        assert planned["shape"]["after"][key] == known[key][1]
    assert planned["shape"]["at_most"]
    record = prune(model, method, windows(), tmp_path / "out")
    assert planned["shape"]["before"]["bytes"] == stored_in(model)
    made = {"parameters": record["sparse"]["parameters"], "bytes": stored_in(tmp_path / "out")}
    for key, number in made.items():
        assert known[key][0] <= number <= known[key][1]
    for kind, number in record["weighed"]["best"].items():
        assert known[kind][0] <= number <= known[kind][1]
    assert record["weighed"]["offers"] == known["count"]
    said = "\n".join(lines(planned, prepared.out))
    assert f"cut to one of {len(found)} shapes, with" in said
    assert f"parameters: {known['parameters'][0]:,} to {known['parameters'][1]:,} of" in said


def test_one_shape_that_is_offered_is_known(deep: Saved, tmp_path: Path) -> None:
    method = searching(shapes=[[3, 16, 2]], tried=1, levels=1)
    planned = plan(ask(deep("llama"), method, tmp_path / "out", windows()), dry_run=False)
    assert "offers" not in planned["shape"]
    record = prune(deep("llama"), method, windows(), tmp_path / "out")
    after = planned["shape"]["after"]
    assert after["said"] == "3 blocks, 16 neurons, 2 heads"
    assert after["parameters"] == record["sparse"]["parameters"]
    assert after["bytes"] == stored_in(tmp_path / "out")
    assert not planned["shape"]["at_most"]


def test_what_weighing_does_is_counted(
    deep: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = searching(sparsity=0.4, tried=2, levels=2, tokens=41)  # three windows
    prepared = ask(deep("llama"), method, tmp_path / "out", windows())
    work = counted(prepared, offers(prepared))
    through, pruned = list[int](), list[int]()
    call, run = StreamedTrials._through, pruning_run.run

    def passing(self: Any, index: int, states: Any, slot: int, part: slice) -> Tensor:
        through.append(part.stop - part.start)
        return call(self, index, states, slot, part)

    def pruning(inner: Any, report: Any) -> Any:
        pruned.append(len(inner.model))
        return run(inner, report)

    monkeypatch.setattr(StreamedTrials, "_through", passing)
    monkeypatch.setattr(pruning_run, "run", pruning)
    record = prune(deep("llama"), method, windows(), tmp_path / "out", micro_batch=2)
    assert sum(through) == work.passes
    assert work.rounds == 4 - min(shape.blocks for shape in offers(prepared))
    weighed = record["weighed"]
    assert work.widths == sum(len(weighed["alone"][kind]) - 1 for kind in ("neurons", "heads"))
    assert work.shapes == len(weighed["tried"])
    assert pruned[: work.widths] == [4] * work.widths
    assert len(pruned) <= work.widths + work.shapes + 1


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


@pytest.mark.parametrize("method", [methods.hidden(sparsity=0.25), searching(levels=1, tried=1)])
def test_the_disk_holds_what_is_on_the_way(
    method: Method, deep: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = ask(deep("llama"), method, tmp_path / "out", windows())
    disk = plan(prepared, dry_run=False)["disk_bytes"]
    there = list[int]()

    def measured(*given: Any) -> float:
        shards = (tmp_path / "out").rglob("model*.safetensors")
        tensors = [t for path in shards for t in load_file(path).values()]
        there.append(sum(t.numel() * t.element_size() for t in tensors))
        return 0.0

    monkeypatch.setattr("steppe.llm.structured.slim.compared", measured)  # once it is cut
    prune(deep("llama"), method, windows(), tmp_path / "out")
    whole = disk["shards"] + disk["the model as it is on the way"]
    assert whole / 2 <= there[0] <= whole


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
        ("gpt2", methods.hidden(sparsity=0.25), "--structure neurons"),
        ("llama", searching(sparsity=0.999), "leaves room for what must stay"),
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
    assert shape["after"]["said"] == "2 blocks, 10 neurons, 1 head"
    resized = Shape.of(read_config(language_model)).resized(neurons=10, heads=1)
    assert shape["after"]["parameters"] == resized.parameters
    assert "total_ms" not in shape["after"]
    first, *_ = said = lines(planned, tmp_path / "out")
    assert first == "slim: cut to 2 blocks, 10 neurons, 1 head, of 2 blocks, 20 neurons, 2 heads"
    assert any("steppe latency MODEL" in line for line in said)


def table_of(model: Path, path: Path) -> None:
    """A made up table, of a model of two blocks, 20 neurons and 2 heads."""
    whole = Shape.of(read_config(model))
    conditions = {"device": "abacus", "threads": 2, "dtype": "float32", "cache": 10**6}
    axes = {"neurons": [10, 20], "heads": [1, 2]}
    table = GenerationTable(conditions, 8, 5, whole, axes, path=path)
    for name, shape, every_word in table.wanted():
        each = 1.0 + every_word + shape.blocks * (shape.neurons + 10 * shape.heads)
        table.points[name] = {"prompt": [4 * each], "token": [each]}
    table.write()


def test_times_are_bounds_while_the_shape_is_open(language_model: Path, tmp_path: Path) -> None:
    table_of(language_model, tmp_path / "table.json")
    method = searching(shapes=[[1, 20, 2], [2, 15, 2], [2, 5, 2]])
    prepared = ask(language_model, method, tmp_path / "out", torch.randint(26, (4, 8)))
    planned = plan(prepared, dry_run=False, latency_table=tmp_path / "table.json")
    known = planned["shape"]["offers"]
    assert known["token_ms"] == pytest.approx([42.0, 72.0])
    assert known["total_ms"] == pytest.approx([42.0 * 8, 72.0 * 8])
    assert (known["timed"], known["count"]) == (2, 3)
    said = "\n".join(lines(planned, tmp_path / "out"))
    assert "336 to 576 of 656 ms, 13.89 to 23.81 tokens/s instead of 12.2" in said
    assert "for the 2 shapes whose widths the table has" in said


def test_a_table_is_of_one_hidden_size(language_model: Path, tmp_path: Path) -> None:
    table_of(language_model, tmp_path / "table.json")
    method = methods.hidden(sparsity=0.5)
    prepared = ask(language_model, method, tmp_path / "out", torch.randint(26, (4, 8)))
    planned = plan(prepared, dry_run=False, latency_table=tmp_path / "table.json")
    assert planned["shape"]["before"]["token_ms"] == 82.0
    assert "token_ms" not in planned["shape"]["after"]
    said = lines(planned, tmp_path / "out")
    assert said[0].startswith("hidden: cut to 2 blocks, 20 neurons, 2 heads, hidden size 6, of ")
    assert any("656 ms, 12.2 tokens/s before" in line for line in said)


@pytest.mark.parametrize(
    ("method", "token"),
    [(methods.slim(sparsity=0.5), 42.0), (methods.depth(sparsity=0.5), 42.0)],
    ids=["slim", "depth"],
)
def test_times_come_from_a_table(
    method: Method, token: float, language_model: Path, tmp_path: Path
) -> None:
    table_of(language_model, tmp_path / "table.json")
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
