"""Experts of mixtures removed: what is left computes as the model with the others never chosen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from language_models import Saved, on_disk, reload, same_on_disk, windows
from mixture_models import FAMILIES, build, close
from steppe import SteppeError, methods
from steppe.coupling.merge_experts import MergeExperts
from steppe.llm.model import StreamedModel
from steppe.llm.prune import prune
from steppe.llm.structured import slim
from steppe.llm.structured.choices.units import MASKED
from steppe.llm.structured.merging import merge
from steppe.llm.structured.routing import rerouted
from steppe.removal.mixtures import mixtures_of
from steppe.removal.plan import Plan


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory, build, shard="20KB")


def kept_of(record: dict[str, Any]) -> dict[str, Tensor]:
    """Router's weight -> booleans, from the rows of the record."""
    kept = {}
    for row in record["blocks"]:
        for name, said in row["experts"].items():
            kept[name] = torch.zeros(len(said["scores"]), dtype=torch.bool)
            kept[name][said["kept"]] = True
    return kept


@pytest.mark.parametrize("stay", [5, 6])
@pytest.mark.parametrize("name", FAMILIES)
def test_removed_is_masked(name: str, stay: int, saved: Saved, tmp_path: Path) -> None:
    folder, out = saved(name), tmp_path / "out"
    before = build(name).state_dict()
    record = prune(folder, methods.reap(sparsity=1 - stay / 8), windows(), out)
    kept = kept_of(record)
    assert {int(k.sum()) for k in kept.values()} == {stay}
    masked, cut, text = reload(folder), reload(out), windows(2, 11)
    with torch.no_grad():
        dense = masked(text).logits
        with rerouted(masked, kept):
            expected = masked(text).logits
        assert close(cut(text).logits, expected)
        assert not close(dense, expected)
    assert all(torch.equal(t, masked.state_dict()[n]) for n, t in before.items()), "not put back"
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    with rerouted(masked, kept):
        written = masked.generate(text[:1, :4], **options)
    assert torch.equal(cut.generate(text[:1, :4], **options), written)
    # what stays is as it was, and under the names that the checkpoint had
    old, new = {m.name: m for m in mixtures_of(masked)}, {m.name: m for m in mixtures_of(cut)}
    for router, mixture in new.items():
        for tensor, value in mixture.tensors.items():
            assert torch.equal(value, old[router].tensors[tensor][kept[router]])
    config, dense_config = (json.loads((f / "config.json").read_text()) for f in (out, folder))
    number = FAMILIES[name][2]
    changed = {k for k, v in config.items() if dense_config.get(k) != v}
    assert changed <= {number, "transformers_version"}
    assert config[number] == stay
    assert set(on_disk(out)) <= set(on_disk(folder))
    assert record["removed"]["experts"] == {n: [stay, 8] for n in kept}
    assert record["removed"]["agreement"] < 1e-5
    assert record["sparse"]["parameters"] == sum(p.numel() for p in cut.parameters())
    # a fresh model of the kind is cut by the plan in the same way
    again = build(name)
    Plan.load(out).apply(again)
    with torch.no_grad():
        assert close(again(text).logits, expected)


def brute_force(model: Any, text: Tensor, kept: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """REAP's score, the share and the mass of the gates: token by token, choice by choice."""
    said: dict[str, dict[str, Any]] = {}
    for mixture in mixtures_of(model):
        # in the model whose earlier mixtures are cut
        earlier = {n: k for n, k in kept.items() if n < mixture.name}
        calls: list[tuple[Tensor, ...]] = []
        hook = mixture.experts.register_forward_pre_hook(lambda m, a, calls=calls: calls.append(a))
        with rerouted(model, earlier), torch.no_grad():
            model(text)
        hook.remove()
        norms, tokens, gates = (torch.zeros(mixture.count, dtype=torch.float64) for _ in range(3))
        (hidden, index, weights), everything = calls[0], 0
        for token in range(len(hidden)):
            everything += 1
            for expert, gate in zip(index[token].tolist(), weights[token].tolist(), strict=True):
                alone = torch.tensor([[expert]]), torch.ones(1, 1)
                with torch.no_grad():
                    made = mixture.experts(hidden[token : token + 1], *alone)
                norms[expert] += gate * float(made.double().norm())
                tokens[expert] += 1
                gates[expert] += gate
        said[mixture.name] = {
            "reap": norms / tokens.clamp_min(1),
            "routing_frequency": tokens / everything,
            "gate_mass": gates / everything,
            "tokens": tokens.long().tolist(),
        }
    return said


@pytest.mark.parametrize("score", ["reap", "routing_frequency", "gate_mass"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe", "deepseek-v3"])
def test_scores_are_those_of_a_loop_over_tokens(
    name: str, score: str, saved: Saved, tmp_path: Path
) -> None:
    text = windows(5, 9)
    method = methods.reap(sparsity=0.375, score=score)
    record = prune(saved(name), method, text, tmp_path / "out", micro_batch=2)
    expected = brute_force(reload(saved(name)), text, kept_of(record))
    found = {n: said for row in record["blocks"] for n, said in row["experts"].items()}
    assert found.keys() == expected.keys()
    for router, said in found.items():
        assert said["tokens"] == expected[router]["tokens"]
        scores = torch.tensor(said["scores"], dtype=torch.float64)
        torch.testing.assert_close(scores, expected[router][score], rtol=1e-4, atol=1e-6)
        lost = [i for i in range(8) if i not in said["kept"]]
        assert scores[lost].max() <= scores[said["kept"]].min()


def merging(sparsity: float, **options: Any) -> Any:
    coupling = {"name": "merge_experts", **options}
    return methods.reap(sparsity=sparsity, score="routing_frequency").replace(coupling=coupling)


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the model lies whose experts are merged and not yet cut; it is not deleted."""
    kept, remove = tmp_path / "merged", shutil.rmtree

    def moved(path: Path, **options: Any) -> None:
        path.rename(kept) if path.name == "masked" else remove(path, **options)

    monkeypatch.setattr(slim.shutil, "rmtree", moved)
    return kept


@pytest.mark.parametrize("similarity", ["logits", "router"])
@pytest.mark.parametrize("name", FAMILIES)
def test_merged_and_removed_is_merged_and_masked(
    name: str, similarity: str, saved: Saved, tmp_path: Path, between: Path
) -> None:
    folder, out = saved(name), tmp_path / "out"
    record = prune(folder, merging(0.375, similarity=similarity), windows(), out)
    kept, text = kept_of(record), windows(2, 11)
    masked, cut, dense = reload(between), reload(out), reload(folder)
    with torch.no_grad():
        with rerouted(masked, kept):
            expected = masked(text).logits
        assert close(cut(text).logits, expected)
        with rerouted(dense, kept):
            assert not close(dense(text).logits, expected), "nothing was merged"
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    with rerouted(masked, kept):
        written = masked.generate(text[:1, :4], **options)
    assert torch.equal(cut.generate(text[:1, :4], **options), written)
    # only experts that others went to have changed, and nothing outside of the mixtures
    old = dense.state_dict()
    into = {n: s["into"] for row in record["blocks"] for n, s in row["experts"].items()}
    inside = {m.inside: into[m.name] for m in mixtures_of(dense)}
    for tensor, value in masked.state_dict().items():
        goes = inside.get(tensor.rpartition(".")[0])
        if goes is None:
            assert torch.equal(value, old[tensor]), tensor
            continue
        for expert in range(8):
            same = torch.equal(value[expert], old[tensor][expert])
            assert same or goes.count(expert) > 1, (tensor, expert)
    config, dense_config = (json.loads((f / "config.json").read_text()) for f in (out, folder))
    changed = {k for k, v in config.items() if dense_config.get(k) != v}
    assert changed <= {FAMILIES[name][2], "transformers_version"}
    for router, said in into.items():
        assert [i for i in range(8) if said[i] == i] == kept[router].nonzero().flatten().tolist()
    assert record["removed"]["agreement"] < 1e-5
    assert record["sparse"]["nonzero"] == sum(int((p != 0).sum()) for p in cut.parameters())


def test_experts_are_compared_and_weighed_by_the_tokens(
    saved: Saved, tmp_path: Path, between: Path
) -> None:
    """The first mixture, beside the logits and the tokens that plain transformers have there."""
    text = windows(5, 9)
    record = prune(saved("mixtral"), merging(0.5), text, tmp_path / "out")
    model = reload(saved("mixtral"))
    mixture = next(mixtures_of(model))
    seen: list[Tensor] = []
    hook = mixture.experts.register_forward_pre_hook(lambda m, given: seen.extend(given[:2]))
    with torch.no_grad():
        model(text)
    hook.remove()
    logits = seen[0].double() @ mixture.tensors[mixture.name].double().T
    said = record["blocks"][0]["experts"][mixture.name]
    assert said["tokens"] == torch.bincount(seen[1].flatten(), minlength=8).tolist()
    for expert, target in enumerate(said["into"]):
        if expert not in said["kept"]:
            like = torch.cosine_similarity(logits[:, [expert]], logits, dim=0)[said["kept"]]
            assert target == said["kept"][int(like.argmax())]
    merge(
        mixture, MergeExperts(), torch.tensor(said["into"]), torch.tensor(said["tokens"]).double()
    )
    found = next(mixtures_of(reload(between)))
    for name, tensor in mixture.tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("streamed", "after"), [("auto", 1), ("never", 1), ("auto", 2)])
def test_merging_that_was_killed_ends_with_the_same_bits(
    streamed: str, after: int, saved: Saved, tmp_path: Path
) -> None:
    """Also after the last block, before what lies outside of the blocks is written."""
    folder, method = saved("qwen2-moe"), merging(0.375)
    made = prune(folder, method, windows(), tmp_path / "once", streamed=streamed)

    def dies(row: dict[str, Any]) -> None:
        if row["block"] == after:
            raise Killed

    assert len(made["blocks"]) == 3
    with pytest.raises(Killed):
        prune(folder, method, windows(), tmp_path / "twice", report=dies, streamed=streamed)
    assert (tmp_path / "twice" / MASKED).is_dir()
    prune(folder, method, windows(), tmp_path / "twice", streamed=streamed)
    assert same_on_disk(tmp_path / "once", tmp_path / "twice")
    assert not (tmp_path / "twice" / MASKED).exists()
    assert not list((tmp_path / "twice").rglob("*.bin"))


def test_merging_needs_a_text(saved: Saved, tmp_path: Path) -> None:
    method = methods.reap(sparsity=0.25, score="magnitude").replace(coupling="merge_experts")
    with pytest.raises(SteppeError, match="needs calibration text"):
        prune(saved("mixtral"), method, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_experts_that_no_token_reaches_go_first(tmp_path: Path) -> None:
    build("mixtral").save_pretrained(tmp_path / "dense")
    # three tokens reach six experts at most, and as good as never so many
    record = prune(tmp_path / "dense", methods.reap(sparsity=0.25), windows(1, 3), tmp_path / "out")
    notes = [x for x in record["fallbacks"] if "no calibration token" in x]
    assert len(notes) == 3
    for row in record["blocks"]:
        for said in row["experts"].values():
            assert all(said["tokens"][i] == 0 for i in range(8) if i not in said["kept"])


class Killed(Exception):
    pass


@pytest.mark.parametrize("streamed", ["auto", "never"])
def test_a_killed_run_ends_with_the_same_bits(streamed: str, saved: Saved, tmp_path: Path) -> None:
    folder, method = saved("deepseek-v3"), methods.reap(sparsity=0.375)
    prune(folder, method, windows(), tmp_path / "once", streamed=streamed)

    def dies(row: dict[str, Any]) -> None:
        if row["block"] == 1:
            raise Killed

    with pytest.raises(Killed):
        prune(folder, method, windows(), tmp_path / "twice", report=dies, streamed=streamed)
    seen: list[int] = []
    goes_on = {"streamed": streamed, "report": lambda row: seen.append(row["block"])}
    prune(folder, method, windows(), tmp_path / "twice", **goes_on)
    assert seen == [0, 1, 2]
    assert same_on_disk(tmp_path / "once", tmp_path / "twice")
    assert not list(tmp_path.rglob("*.bin"))


def test_the_whole_model_in_memory_gives_the_same_choice(saved: Saved, tmp_path: Path) -> None:
    method = methods.reap(sparsity=0.375)
    streamed = prune(saved("qwen3-moe"), method, windows(), tmp_path / "one")
    whole = prune(saved("qwen3-moe"), method, windows(), tmp_path / "two", streamed="never")
    one, two = kept_of(streamed), kept_of(whole)
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_groups_of_experts_stay_equally_large(tmp_path: Path) -> None:
    groups = {"n_group": 2, "topk_group": 1, "num_experts_per_tok": 2}
    model = build("deepseek-v3", **groups)
    model.save_pretrained(tmp_path / "dense")
    refused = methods.reap(sparsity=0.375)
    with pytest.raises(SteppeError, match=r"equally many in each of 2 groups.*--sparsity 0\.25"):
        prune(tmp_path / "dense", refused, windows(), tmp_path / "none")
    assert not (tmp_path / "none" / "checkpoints").exists()
    record = prune(tmp_path / "dense", methods.reap(sparsity=0.25), windows(), tmp_path / "out")
    kept, text = kept_of(record), windows(2, 11)
    assert all(int(k[:4].sum()) == int(k[4:].sum()) == 3 for k in kept.values())
    with torch.no_grad(), rerouted(model, kept):
        expected = model(text).logits
    with torch.no_grad():
        assert close(reload(tmp_path / "out")(text).logits, expected)


def test_experts_ranked_by_their_weights_need_no_text(saved: Saved, tmp_path: Path) -> None:
    method = methods.reap(sparsity=0.25, score="magnitude")
    record = prune(saved("mixtral"), method, None, tmp_path / "out")
    for router, mixture in {m.name: m for m in mixtures_of(reload(saved("mixtral")))}.items():
        norms = mixture.tensors[f"{mixture.inside}.down_proj"].flatten(1).norm(dim=1)
        kept = kept_of(record)[router].nonzero().flatten()
        assert sorted(norms.topk(6).indices.tolist()) == kept.tolist()


def test_perplexity_is_measured_before_and_after(
    saved: Saved, language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    shutil.copytree(saved("mixtral"), tmp_path / "dense")
    for path in language_model.glob("tokenizer*"):
        shutil.copy(path, tmp_path / "dense")
    text, method = str(word_text), methods.reap(sparsity=0.25)
    options = {"evaluate": [text], "evaluate_window": 16}
    record = prune(tmp_path / "dense", method, windows(), tmp_path / "out", **options)
    for which in ("dense", "sparse"):
        assert record[which]["texts"][text]["perplexity"] > 1.0


def test_fewer_than_each_token_is_sent_to_are_refused(saved: Saved, tmp_path: Path) -> None:
    with pytest.raises(SteppeError, match=r"3 experts.*got 2 of 8.*--sparsity 0\.625") as refused:
        prune(saved("deepseek-v3"), methods.reap(sparsity=0.75), windows(), tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": methods.reap(sparsity=0.25), "calibration": None}, "calibration text"),
    ],
)
def test_what_cannot_be_is_said_at_once(
    change: dict[str, Any], said: str, saved: Saved, tmp_path: Path
) -> None:
    options = {"calibration": windows(), "out": tmp_path / "out"} | change
    with pytest.raises(SteppeError, match=said):
        prune(saved("mixtral"), **options)
    assert not (tmp_path / "out").exists()


def test_a_dense_model_has_no_experts(language_model: Path, tmp_path: Path) -> None:
    tokens = torch.randint(26, (4, 8))
    with pytest.raises(SteppeError, match="mixtures of stacked experts") as refused:
        prune(language_model, methods.reap(sparsity=0.25), tokens, tmp_path / "out")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: methods.wanda(sparsity=0.5, structure="experts"), "method reap"),
        (lambda: methods.sparsegpt(sparsity=0.5, structure="experts"), "method reap"),
        (lambda: methods.reap(sparsity=0.5, structure="unstructured"), "structure experts"),
        (lambda: methods.reap(sparsity=0.5, budget="owl"), "one number of experts|owl"),
        (lambda: methods.magnitude(sparsity=0.5, score="reap"), "score reap"),
        (lambda: methods.reap(sparsity=0.5, score="wanda"), "method reap"),
    ],
)
def test_parts_that_do_not_fit_say_so(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(SteppeError, match=said):
        make()


def test_plan_of_a_model_names_its_experts(saved: Saved) -> None:
    model = StreamedModel(str(saved("deepseek-v3")))
    found = {m.name: m for m in mixtures_of(model.model)}
    assert list(found) == [f"model.layers.{i}.mlp.gate.weight" for i in (1, 2)]
    assert [[m.group().units for m in found.values()]] == [[8, 8]]
    inside = {n.rpartition("mlp.")[2] for n in found["model.layers.1.mlp.gate.weight"].tensors}
    experts = {"experts.gate_up_proj", "experts.down_proj"}
    assert inside == {"gate.weight", "gate.e_score_correction_bias", *experts}


def test_former_names_of_the_number_are_changed_too(saved: Saved, tmp_path: Path) -> None:
    """As the hub has Qwen3-MoE: num_experts, which its config class has under another name."""
    shutil.copytree(saved("qwen3-moe"), tmp_path / "dense")
    path = tmp_path / "dense" / "config.json"
    held = json.loads(path.read_text())
    held["num_experts"] = held.pop("num_local_experts")
    path.write_text(json.dumps(held))
    prune(tmp_path / "dense", methods.reap(sparsity=0.25), windows(), tmp_path / "out")
    new = json.loads((tmp_path / "out" / "config.json").read_text())
    assert new["num_experts"] == new.get("num_local_experts", 6) == 6
    reload(tmp_path / "out")
