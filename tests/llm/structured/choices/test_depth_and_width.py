"""Depth and width together: weighed on held-out windows, cut as both by hand would be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from language_models import reload, same_on_disk, windows
from steppe import SteppeError, methods
from steppe.engine.blockwise.held_out import windows_apart
from steppe.llm import pruning_run
from steppe.llm.prune import prune
from steppe.llm.pruned_pair import PrunedPair
from steppe.llm.structured import cut, slim, weighing
from steppe.llm.structured.fitting import fitted
from steppe.llm.structured.shape import Shape
from steppe.llm.structured.target import Target

BLOCKS = 4
SIZES = {
    "vocab_size": 48,
    "hidden_size": 16,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GATED = SIZES | {"intermediate_size": 24}
GPT2 = {
    "vocab_size": 48,
    "n_embd": 16,
    "n_inner": 24,
    "n_layer": BLOCKS,
    "n_head": 4,
    "n_positions": 64,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("Llama", GATED, "neurons+heads"),
    "qwen3": ("Qwen3", GATED | {"head_dim": 8, "num_key_value_heads": 2}, "neurons+heads"),
    "gpt2": ("GPT2", GPT2, "neurons"),
    "mixtral": ("Mixtral", GATED | {"num_key_value_heads": 4, "num_local_experts": 3}, "neurons"),
}
Saved = Callable[[str], Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    import transformers

    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            kind, options, _ = FAMILIES[name]
            torch.manual_seed(0)
            config = getattr(transformers, f"{kind}Config")(**options)
            made[name] = tmp_path_factory.mktemp(name)
            transformers.AutoModelForCausalLM.from_config(config).save_pretrained(made[name])
        return made[name]

    return folder


def both(kinds: str = "neurons+heads", sparsity: float = 0.5, **more: Any) -> Any:
    plain = {"name": "depth_and_width", "of": kinds.split("+")} | more
    return methods.slim(sparsity=sparsity, structure=plain)


@torch.no_grad()
def loss_of(folder: Path, tokens: Tensor) -> float:
    logits = reload(folder)(tokens, use_cache=False).logits[:, :-1].double().flatten(0, 1)
    return float(nn.functional.cross_entropy(logits, tokens[:, 1:].flatten()))


def by_hand(model: Path, shape: tuple[int, ...], tokens: Tensor, depth: Tensor, out: Path) -> Path:
    """First depth, on some windows, then width on others, as two commands do it."""
    blocks, neurons, heads = shape
    if blocks < BLOCKS:
        made = methods.depth(sparsity=1 - blocks / BLOCKS)
        prune(model, made, depth, out / "depth", measure=0)
        model = out / "depth"
    whole = Shape.of(reload(model).config)
    keep = {"neurons": (neurons, whole.neurons), "heads": (heads, whole.heads)}
    kept = [[kind, n] for kind, (n, there) in keep.items() if n < there]
    if not kept:
        return model
    units = {"name": "units", "of": [kind for kind, _ in kept], "keep": kept}
    prune(model, methods.slim(sparsity=0.5, structure=units), tokens, out / "width", measure=0)
    return out / "width"


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_what_depth_and_then_width_are(name: str, saved: Saved, tmp_path: Path) -> None:
    kinds = FAMILIES[name][2]
    heads = 1 if name == "qwen3" else 2
    heads = heads if "heads" in kinds else Shape.of(reload(saved(name)).config).heads
    shape, tokens = (3, 16, heads), windows(12)
    record = prune(saved(name), both(kinds, shapes=[shape]), tokens, tmp_path / "out")
    fit, _ = windows_apart(12, 2)
    hand = by_hand(saved(name), shape, tokens, tokens[fit], tmp_path)
    assert same_on_disk(hand, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written == json.loads((hand / "config.json").read_text())
    model = reload(tmp_path / "out")
    found = Shape.of(model.config)
    assert (found.blocks, found.neurons, found.heads) == shape
    assert record["weighed"]["best"] == dict(
        zip(("blocks", "neurons", "heads"), shape, strict=True)
    )
    assert record["sparse"]["parameters"] == model.num_parameters()
    dense = reload(saved(name)).num_parameters()
    assert record["sparsity_of_all"] == pytest.approx(1 - model.num_parameters() / dense)
    assert record["removed"]["agreement"] < 1e-5
    first = json.loads((tmp_path / "depth" / "record.json").read_text())
    assert record["removed"]["blocks"] == first["removed"]["blocks"]
    gone = [int(n.rpartition(".")[2]) for n in record["removed"]["blocks"]]
    stay = [i for i in range(BLOCKS) if i not in gone]
    assert PrunedPair(tmp_path / "out").places(3, BLOCKS) == stay
    assert not [p for p in (tmp_path / "out" / "checkpoints").iterdir() if p.is_dir()]
    start = torch.randint(3, 48, (1, 4))
    given = {"attention_mask": torch.ones(1, 4), "max_new_tokens": 6, "do_sample": False}
    assert model.generate(start, **given).equal(reload(hand).generate(start, **given))


def test_everything_is_measured_on_windows_held_out(saved: Saved, tmp_path: Path) -> None:
    """Beside plain transformers and both by hand, for each shape that is tried."""
    tokens = windows(12)
    fit, judged = windows_apart(12, 2)
    record = prune(saved("llama"), both(tried=3, levels=2), tokens, tmp_path / "out")
    weighed = record["weighed"]
    assert weighed["whole"] == pytest.approx(loss_of(saved("llama"), tokens[judged]), rel=1e-5)
    for kind, known in weighed["alone"].items():
        for place, (number, loss) in enumerate(known.items()):
            shape = {"blocks": BLOCKS, "neurons": 24, "heads": 4} | {kind: int(number)}
            where = tmp_path / f"{kind}{place}"
            hand = by_hand(saved("llama"), tuple(shape.values()), tokens[fit], tokens[fit], where)
            assert loss == pytest.approx(loss_of(hand, tokens[judged]), rel=1e-4), shape
    tried = weighed["tried"]
    assert len(tried) == 3
    for place, row in enumerate(tried):
        shape = row["blocks"], row["neurons"], row["heads"]
        hand = by_hand(saved("llama"), shape, tokens[fit], tokens[fit], tmp_path / f"tried{place}")
        assert row["loss"] == pytest.approx(loss_of(hand, tokens[judged]), rel=1e-4)
    best = min(tried, key=lambda row: row["loss"])
    assert weighed["best"] == {k: best[k] for k in weighed["best"]}
    # the first was the one that the tables foretell to be the best of all offers
    assert record["sparsity_reached"] >= 0.5


@pytest.mark.parametrize("target", ["parameters=0.6", "bytes=0.7"])
def test_a_target_is_met(target: str, saved: Saved, tmp_path: Path) -> None:
    model = saved("llama")
    method = fitted(methods.slim(sparsity=0.5, structure="neurons+heads+layers"), model, target)
    whole, wanted = Shape.of(reload(model).config), Target.parse(target)
    offered = [
        dict(zip(("blocks", "neurons", "heads"), s, strict=True)) for s in method.structure.shapes
    ]
    assert len({s["blocks"] for s in offered}) > 1
    for counts in offered:
        assert wanted.cost(whole.resized(**counts)) <= wanted.allowed(whole)
        more = whole.resized(**counts | {"neurons": min(counts["neurons"] + 1, 24)})
        assert counts["neurons"] == 24 or wanted.cost(more) > wanted.allowed(whole)
    record = prune(model, method, windows(12), tmp_path / "out")
    assert record["sparse"]["parameters"] <= wanted.allowed(whole) or target.startswith("bytes")
    assert record["weighed"]["best"] in offered


class Killed(BaseException):
    """As a signal: nothing catches it."""


@pytest.mark.parametrize("place", ["depth", "width", "walk", "judged", "last", "cut"])
def test_killed_and_started_again(
    place: str, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = both(shapes=[(3, 16, 2), (4, 12, 2), (3, 12, 4)], levels=1, tried=2)
    whole = prune(saved("llama"), method, windows(12), tmp_path / "whole")
    walked: list[str] = []
    run, judged = pruning_run.run, weighing.streamed_perplexity

    def counted(prepared: Any, report: Any) -> Any:
        walked.append(prepared.out.name)
        if place == "width" and len(walked) == 2:
            raise Killed
        if place == "walk" and len(walked) == 3:

            def report(row: Any) -> None:
                raise Killed

        if place == "last" and prepared.out.name == "masked":
            raise Killed
        return run(prepared, report)

    def losses(*given: Any) -> Any:
        raise Killed

    calls: list[int] = []

    def perplexity(*given: Any, **more: Any) -> Any:
        calls.append(1)
        if place == "judged" and len(calls) == 4:
            raise Killed
        return judged(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(pruning_run, "run", counted)
        patch.setattr(weighing, "streamed_perplexity", perplexity)
        if place == "depth":
            patch.setattr(weighing.StreamedTrials, "losses", losses)
        if place == "cut":
            patch.setattr(slim, "cut", losses)
        with pytest.raises(Killed):
            prune(saved("llama"), method, windows(12), tmp_path / "out")
    assert not (tmp_path / "out" / "record.json").exists()
    done = json.loads((tmp_path / "out" / "checkpoints" / "weighing.json").read_text())
    again: list[str] = []

    def once_more(prepared: Any, report: Any) -> Any:
        again.append(prepared.out.name)
        return run(prepared, report)

    with monkeypatch.context() as patch:
        patch.setattr(pruning_run, "run", once_more)
        record = prune(saved("llama"), method, windows(12), tmp_path / "out")
    assert same_on_disk(tmp_path / "whole", tmp_path / "out")
    measured = ("whole", "alone", "tried", "best")
    assert {k: record["weighed"][k] for k in measured} == {k: whole["weighed"][k] for k in measured}
    trials = len(
        json.loads((tmp_path / "out" / "checkpoints" / "weighing.json").read_text())["losses"]
    )
    assert again.count("trial") == trials - len(done.get("losses", {}))
    assert prune(saved("llama"), method, windows(12), tmp_path / "out") == record


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": both(sparsity=0.999)}, "leaves room for what must stay"),
        ({"method": both(sparsity=0.0)}, "less than the whole model"),
        ({"method": both(shapes=[(5, 24, 4)])}, "no more stays than there is"),
        ({"exclude": ("model.layers.0.*",)}, "--method depth"),
        ({"calibration": windows(1)}, "got one window"),
        ({"calibration": None}, "calibration text"),
        ({"streamed": "never"}, r"only hidden states.*--structure neurons\+heads"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    options: dict[str, Any], said: str, saved: Saved, tmp_path: Path
) -> None:
    given = {"method": both(), "calibration": windows(12), "out": tmp_path / "out"} | options
    with pytest.raises(SteppeError, match=said) as refused:
        prune(saved("llama"), **given)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_what_is_no_such_method(saved: Saved) -> None:
    with pytest.raises(SteppeError, match="no new biases"):
        methods.flap(sparsity=0.5, structure="neurons+heads+layers")
    with pytest.raises(SteppeError, match="unknown structure"):
        methods.slim(sparsity=0.5, structure="layers+experts")
    with pytest.raises(SteppeError, match=r"structure neurons\+heads with keep"):
        both(keep=[["neurons", 4]])
    with pytest.raises(SteppeError, match="tried 0"):
        both(tried=0)
    made = methods.slim(sparsity=0.5, structure="neurons+layers")
    with pytest.raises(SteppeError, match="leaves room"):
        fitted(made, saved("gpt2"), "parameters=0.001")


@pytest.mark.parametrize(
    ("name", "kinds", "shapes", "said"),
    [
        # a Llama of width 16 with 3 heads is what no config says
        ("llama", "neurons+heads", [(4, 16, 2), (4, 16, 3)], "3 of 4 heads.*or other shapes"),
        ("llama", "neurons+heads", [(3, 16, 2), (4, 24, 4)], "of each shape something goes"),
        ("llama", "neurons", [(4, 16, 2)], r"structure neurons\+heads\+layers, or shapes"),
        ("mixtral", "neurons", [(3, 16, 4), (3, 13, 4)], "a multiple of 8"),
    ],
)
def test_every_shape_that_is_asked_for_is_checked_at_once(
    name: str, kinds: str, shapes: Any, said: str, saved: Saved, tmp_path: Path
) -> None:
    with pytest.raises(SteppeError, match=said) as refused:
        prune(saved(name), both(kinds, shapes=shapes), windows(12), tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


Rule = Callable[[set[str]], bool]


def refusing(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a family whose config cannot say what is left where some blocks are gone."""
    plain = cut.misplaced

    def misplaced(config: Any, names: Any, dtype: Any) -> str:
        return "its pattern breaks" if rule(set(names)) else plain(config, names, dtype)

    monkeypatch.setattr(cut, "misplaced", misplaced)


def test_blocks_that_no_config_can_lack_are_passed_over(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together only: each alone may go, so that it shows in the second round."""
    method, tokens = both(shapes=[(2, 16, 4)], tried=1), windows(12)
    plain = prune(saved("llama"), method, tokens, tmp_path / "plain")
    first, second = (row["block"] for row in plain["weighed"]["depth"])
    refusing(lambda gone: {first, second} <= gone, monkeypatch)
    record = prune(saved("llama"), method, tokens, tmp_path / "out")
    rounds = record["weighed"]["depth"]
    rated = rounds[1]["rated"]
    assert rounds[0]["block"] == first
    assert rounds[1]["block"] == sorted(rated, key=lambda n: rated[n])[1]
    assert set(record["removed"]["blocks"]) == {row["block"] for row in rounds}
    assert any(f"{second} stays" in note for note in record["fallbacks"])
    assert record["removed"]["agreement"] < 1e-5


def test_a_number_of_blocks_that_no_config_says_is_left_out(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it shows on the way only, the other shapes are tried."""
    method, tokens = both(shapes=[(2, 16, 4), (3, 16, 4)], tried=2), windows(12)
    first = prune(saved("llama"), both(shapes=[(3, 16, 4)]), tokens, tmp_path / "first")
    (row,) = first["weighed"]["depth"]
    refusing(lambda gone: len(gone) == 2 and row["block"] in gone, monkeypatch)
    record = prune(saved("llama"), method, tokens, tmp_path / "out")
    assert record["weighed"]["best"]["blocks"] == 3
    assert record["weighed"]["offers"] == 1
    assert any("no shape of 2 blocks" in note for note in record["fallbacks"])
    with pytest.raises(SteppeError, match=r"its pattern breaks.*Way out: shapes of other than 2"):
        prune(saved("llama"), both(shapes=[(2, 16, 4)]), tokens, tmp_path / "none")


def test_a_number_of_blocks_that_cannot_be_is_refused_at_once(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(lambda gone: len(gone) == 2, monkeypatch)
    for method in (both(shapes=[(2, 16, 4)]), methods.depth(sparsity=0.5)):
        with pytest.raises(SteppeError, match=r"where 2 of 4 blocks go.*another number") as refused:
            prune(saved("llama"), method, windows(12), tmp_path / "out")
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "out").exists()


def test_a_block_that_cannot_go_alone_is_kept_by_another_method(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patterns are of no use to depth and width together."""
    refusing(lambda gone: "model.layers.0" in gone, monkeypatch)
    with pytest.raises(SteppeError, match=r"--method depth, and slim afterwards, with --exclude"):
        prune(saved("llama"), both(), windows(12), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_killed_deletion_left_is_deleted(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Any) -> None:
        (tmp_path / "out" / "checkpoints" / ".gone-blocks-3").mkdir()
        raise Killed

    method = both(shapes=[(3, 24, 4)], levels=1, tried=1)
    with monkeypatch.context() as patch:
        patch.setattr(weighing.Weighing, "clear", killed)
        with pytest.raises(Killed):
            prune(saved("llama"), method, windows(12), tmp_path / "out")
    prune(saved("llama"), method, windows(12), tmp_path / "out")
    assert not [p for p in (tmp_path / "out" / "checkpoints").iterdir() if p.is_dir()]
