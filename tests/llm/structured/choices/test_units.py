"""Neurons and heads cut out of every family: the cut model computes what the masked one does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mixture_models
from language_models import Saved, reload, windows
from steppe import SteppeError, methods
from steppe.engine.mask_keeper import read_masks
from steppe.llm.prune import prune
from steppe.llm.structured import slim
from steppe.llm.structured.choices.units import BIASED, MASKED

NAMES = [
    "llama",
    "llama-grouped",
    "llama-biases",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "phi",
    "phi3",
    "opt",
    "gpt2",
    "gpt-neox",
]
NEURONS = {"opt": "ffn_dim", "gpt2": "n_inner"}
"""Family -> how its config calls the number of neurons, where not intermediate_size."""
HEADS = ["llama", "llama-grouped", "llama-biases", "mistral", "qwen2", "qwen3", "gemma", "gemma3"]
HEADS += ["gemma2", "phi", "phi3"]
"""Families whose config knows how wide a head is."""

EVEN = {"llama", "llama-grouped", "llama-biases", "gemma2", "gemma3"}
"""Of these, those whose hidden size must be a multiple of the number of heads."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory)


def written(folder: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return held


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(windows(3, 30)).logits
    return found


def generated(model: Any) -> list[int]:
    ids = model.generate(
        windows(1, 4), attention_mask=torch.ones(1, 4), max_new_tokens=8, do_sample=False
    )
    found: list[int] = ids[0].tolist()
    return found


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Nothing that was for the way is deleted; paths of masked models are noted."""
    seen: list[Path] = []
    monkeypatch.setattr(
        slim.shutil, "rmtree", lambda path, **_: seen.append(path) if path.name == "masked" else 0
    )
    return seen


def check(old: Path, out: Path, between: Path) -> None:
    """Plain transformers compute with the cut model what they do with the masked one."""
    before, after = reload(between), reload(out)
    expected, found = logits(before), logits(after)
    assert float((expected - found).abs().max() / expected.abs().max()) <= 1e-5
    assert not torch.allclose(expected, logits(reload(old)), rtol=1e-2)
    assert generated(after) == generated(before)
    record = json.loads((out / "record.json").read_text())
    count = sum(p.numel() for p in after.parameters())
    assert record["sparse"]["parameters"] == count
    assert record["removed"]["agreement"] <= 1e-5
    # nothing of the parts that are left is a zero that could go too
    assert not read_masks(between) or not list(out.glob("masks*"))


@pytest.mark.parametrize(("sparsity", "left"), [(0.25, 18), (0.5, 12)])
@pytest.mark.parametrize("name", NAMES)
def test_neurons(
    name: str, sparsity: float, left: int, saved: Saved, tmp_path: Path, masked: list[Path]
) -> None:
    old, out = saved(name), tmp_path / "out"
    record = prune(old, methods.slim(sparsity=sparsity, structure="neurons"), windows(12), out)
    check(old, out, masked[0])
    key = NEURONS.get(name, "intermediate_size")
    assert written(out) == written(old) | {key: left}
    units = list(record["removed"]["units"].values())
    assert units == [[left, 24]] * 2


@pytest.mark.parametrize(("sparsity", "share"), [(0.25, 0.75), (0.5, 0.5)])
@pytest.mark.parametrize("name", HEADS)
def test_heads(
    name: str, sparsity: float, share: float, saved: Saved, tmp_path: Path, masked: list[Path]
) -> None:
    old, out = saved(name), tmp_path / "out"
    before = written(old)
    keys = before.get("num_key_value_heads") or before["num_attention_heads"]
    stay = round(keys * share)
    heads = before["num_attention_heads"] * stay // keys
    method = methods.slim(sparsity=sparsity, structure="neurons+heads")
    if name in EVEN and before["hidden_size"] % heads:
        with pytest.raises(SteppeError, match="not a multiple of the number of attention heads"):
            prune(old, method, windows(12), out)
        assert not out.exists()
        return
    prune(old, method, windows(12), out)
    check(old, out, masked[0])
    config = reload(out).config
    assert config.num_attention_heads == heads
    assert config.num_key_value_heads == stay
    size = before.get("head_dim") or before["hidden_size"] // before["num_attention_heads"]
    changed = {
        "num_attention_heads": heads,
        "num_key_value_heads": stay,
        "intermediate_size": 24 * (1 - sparsity),
        "head_dim": size,
    }
    after = written(out)
    assert {k: v for k, v in after.items() if before.get(k) != v}.items() <= changed.items()
    assert config.head_dim == size


@pytest.mark.parametrize("structure", ["heads", "neurons+heads"])
@pytest.mark.parametrize("name", sorted(set(NAMES) - set(HEADS)))
def test_heads_that_no_config_can_say(
    name: str, structure: str, saved: Saved, tmp_path: Path
) -> None:
    method = methods.slim(sparsity=0.25, structure=structure)
    with pytest.raises(SteppeError, match=r"3 of 4 heads.*--structure neurons") as refused:
        prune(saved(name), method, windows(12), tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists(), "something was begun"


@pytest.mark.parametrize("structure", ["neurons", "neurons+heads"])
@pytest.mark.parametrize("name", ["llama", "llama-biases", "phi", "opt", "gpt2", "gpt-neox"])
def test_flap(name: str, structure: str, saved: Saved, tmp_path: Path, masked: list[Path]) -> None:
    if "heads" in structure and name not in HEADS:
        structure = "neurons"
    old, out = saved(name), tmp_path / "out"
    record = prune(old, methods.flap(sparsity=0.5, structure=structure), windows(12), out)
    check(old, out, masked[0])
    after, before = written(out), written(old)
    flags = {"mlp_bias": True, "attention_bias": "heads" in structure or name == "llama-biases"}
    if name.startswith("llama"):
        assert {k: after[k] for k in flags} == flags
    else:
        assert not [k for k in after if "bias" in k and after[k] != before.get(k)]
    own = reload(old)
    assert record["dense"]["parameters"] == sum(p.numel() for p in own.parameters())
    assert record["dense"]["nonzero"] == sum(int((p != 0).sum()) for p in own.parameters())


@pytest.mark.parametrize(
    ("name", "structure"),
    [("qwen3", "heads"), ("gemma", "heads"), ("gemma2", "heads"), ("gemma3", "heads")],
)
def test_flap_where_only_attention_has_a_flag(
    name: str, structure: str, saved: Saved, tmp_path: Path, masked: list[Path]
) -> None:
    prune(
        saved(name), methods.flap(sparsity=0.5, structure=structure), windows(12), tmp_path / "out"
    )
    check(saved(name), tmp_path / "out", masked[0])
    assert written(tmp_path / "out")["attention_bias"] is True
    with pytest.raises(SteppeError, match=r"got .*whose config has none for .*down_proj"):
        prune(saved(name), methods.flap(sparsity=0.5), windows(12), tmp_path / "none")


@pytest.mark.parametrize("name", ["mistral", "qwen2", "phi3"])
def test_flap_without_biases(name: str, saved: Saved, tmp_path: Path) -> None:
    with pytest.raises(SteppeError, match=r"whose config has none.*method slim") as refused:
        prune(saved(name), methods.flap(sparsity=0.5), windows(12), tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists(), "something was begun"


def test_the_bias_is_what_is_gone_in_the_mean(
    saved: Saved, tmp_path: Path, masked: list[Path]
) -> None:
    """Beside the inputs of the first projection as plain transformers compute them."""
    dense = reload(saved("llama")).requires_grad_(False)
    name = "model.layers.0.self_attn.o_proj"
    seen: list[Tensor] = []
    hook = dense.get_submodule(name).register_forward_pre_hook(lambda m, x: seen.append(x[0]))
    with torch.no_grad():
        dense(windows(12))
    hook.remove()
    x = seen[0].flatten(0, 1)
    out = tmp_path / "out"
    made = methods.flap(sparsity=0.5, structure="heads")
    record = prune(saved("llama"), made, windows(12), out, measure=12)
    projection = reload(masked[0]).requires_grad_(False).get_submodule(name)
    lost = dense.get_submodule(name).weight - projection.weight
    torch.testing.assert_close(projection.bias, lost @ x.mean(0), rtol=1e-4, atol=1e-6)
    # and the error that the record says is the one with it
    change = x @ lost.T
    plain = (x @ dense.get_submodule(name).weight.T).square().sum()
    error = float((change - change.mean(0)).square().sum() / plain)
    (row,) = record["blocks"][0]["layers"]
    assert row["output_error"] == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("score", ["wanda", "magnitude", "fluctuation", "activation_norm"])
@pytest.mark.parametrize("coupling", ["hard_mask", "regression", "layer_admm", "mean_shift"])
def test_any_score_beside_any_solver(
    score: str, coupling: str, saved: Saved, tmp_path: Path, masked: list[Path]
) -> None:
    made = methods.slim(sparsity=0.5, greedy=False, score=score).replace(coupling=coupling)
    prune(saved("llama"), made, windows(12), tmp_path / "out")
    check(saved("llama"), tmp_path / "out", masked[0])


def test_what_lies_beside_the_weights_comes_with_them(saved: Saved, tmp_path: Path) -> None:
    import shutil

    beside = {
        "chat_template.jinja": "{{ messages }}",
        "tokenizer_config.json": "{}",
        "LICENSE": "mine",
        "assets/picture.txt": "a picture",
    }
    shutil.copytree(saved("llama-grouped"), tmp_path / "dense")
    for name, text in beside.items():
        (tmp_path / "dense" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "dense" / name).write_text(text)
    for method in ("slim", "flap"):
        made = methods.make(method, sparsity=0.5)
        prune(tmp_path / "dense", made, windows(12), tmp_path / method)
        for name, text in beside.items():
            assert (tmp_path / method / name).read_text() == text
        model = reload(tmp_path / method)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert written(tmp_path / method)["tie_word_embeddings"] is True
        keys = json.loads((tmp_path / method / "model.safetensors.index.json").read_text())
        assert "lm_head.weight" not in keys["weight_map"]
        assert not [p.name for p in (tmp_path / method / "checkpoints").iterdir() if p.is_dir()]


def test_a_cut_model_is_cut_again(saved: Saved, tmp_path: Path) -> None:
    prune(
        saved("qwen2"), methods.slim(sparsity=0.5, structure="neurons"), windows(12), tmp_path / "a"
    )
    prune(
        tmp_path / "a", methods.slim(sparsity=0.5, structure="neurons"), windows(12), tmp_path / "b"
    )
    assert written(tmp_path / "b")["intermediate_size"] == 6
    # what is told of the first removal is not told of another pruning
    prune(tmp_path / "a", methods.wanda(sparsity=0.5), windows(12), tmp_path / "c")
    assert (tmp_path / "a/removal.json").is_file()
    assert not (tmp_path / "c/removal.json").exists()


class Killed(BaseException):
    """As a signal: nothing catches it."""


def bits(folder: Path) -> dict[str, bytes]:
    names = [p for p in sorted(folder.iterdir()) if p.suffix in {".safetensors", ".json"}]
    return {p.name: p.read_bytes() for p in names if p.name != "record.json"}


@pytest.mark.parametrize("method", ["slim", "flap"])
@pytest.mark.parametrize("place", ["masked", "between", "cut", "check"])
def test_killed_and_started_again(
    method: str, place: str, saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = methods.make(method, sparsity=0.5)
    options: dict[str, Any] = {"evaluate": (), "measure": 2}
    prune(saved("llama"), made, windows(12), tmp_path / "whole", **options)
    out, write = tmp_path / "out", slim.cut.__globals__["write_shard"]
    walked: list[int] = []

    def report(row: dict[str, Any]) -> None:
        walked.append(row["block"])
        if place == "masked":
            raise Killed

    def one_shard(folder: Path, number: int, *rest: Any) -> None:
        if number == 2:
            raise Killed
        write(folder, number, *rest)

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if place == "between":
            patch.setattr(slim, "cut", die)
        elif place == "cut":
            patch.setitem(slim.cut.__globals__, "write_shard", one_shard)
        elif place == "check":
            patch.setattr(slim, "compared", die)
        with pytest.raises(Killed):
            prune(saved("llama"), made, windows(12), out, report=report, **options)
    assert (out / MASKED).is_dir()
    assert (out / BIASED).is_dir() == (method == "flap")
    assert not (out / "record.json").exists()
    prune(saved("llama"), made, windows(12), out, **options)
    assert bits(out) == bits(tmp_path / "whole")
    assert walked == ([0] if place == "masked" else [0, 1])
    # and a finished one is given as it is
    again = prune(saved("llama"), made, windows(12), out, **options)
    assert again == json.loads((out / "record.json").read_text())


def test_neurons_of_stacked_experts_that_torch_cannot_multiply_are_refused(tmp_path: Path) -> None:
    mixture_models.build("mixtral").save_pretrained(tmp_path / "dense")
    structure = {"name": "units", "of": ["neurons"], "keep": [["neurons", 13]]}
    method = methods.slim(sparsity=0.5, structure=structure)
    with pytest.raises(SteppeError, match=r"a multiple of 8; got 13 neurons, of 24"):
        prune(tmp_path / "dense", method, windows(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
