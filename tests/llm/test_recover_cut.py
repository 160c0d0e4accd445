"""Models of which something was cut out, led back to the dense one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mixture_models as mixtures
import steppe
from language_models import on_disk, reload, same_on_disk
from steppe import SteppeError, methods
from steppe.engine.blockwise.held_out import windows_apart
from steppe.llm.pruned_pair import PrunedPair

FIT = {"epochs": 4, "warmup_epochs": 0, "batch_size": 4}
SIZES = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(scope="module")
def tokens() -> Tensor:
    return torch.randint(3, 48, (10, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    mixtures.build("mixtral").save_pretrained(folder)
    return folder


def cut(model: Path, method: str, tokens: Tensor, out: Path, **options: Any) -> dict[str, Any]:
    made = methods.make(method, sparsity=0.5)
    return steppe.prune(model, made, tokens, out, measure=0, **options)


def recover(folder: Path, tokens: Tensor, out: Path, **options: Any) -> dict[str, Any]:
    return steppe.recover(folder, tokens, out, **({"reconstruction": FIT} | options))


@torch.no_grad()
def streams(model: Any, tokens: Tensor) -> list[Tensor]:
    """What each block gets, and what the last one gives, before the last norm."""
    seen: list[Tensor] = []
    given = [
        b.register_forward_pre_hook(lambda m, a: seen.append(a[0])) for b in model.model.layers
    ]
    model.model.norm.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    model(tokens, use_cache=False)
    del given
    return seen


@pytest.mark.parametrize("method", ["slim", "depth", "reap"])
def test_what_is_left_comes_nearer_and_keeps_its_shapes(
    method: str, llama: Path, mixture: Path, tokens: Tensor, tmp_path: Path
) -> None:
    model = mixture if method == "reap" else llama
    made = cut(model, method, tokens, tmp_path / "cut")
    record = recover(tmp_path / "cut", tokens, tmp_path / "out")
    before, after = on_disk(tmp_path / "cut"), on_disk(tmp_path / "out")
    assert {n: t.shape for n, t in before.items()} == {n: t.shape for n, t in after.items()}
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    assert moved
    assert all(".layers." in n for n in moved)
    rows = [row for block in record["blocks"] for row in block["held_out"].values()]
    assert any(row["kept"] == "trained" for row in rows)
    assert all(row["trained"] < row["start"] for row in rows if row["kept"] == "trained")
    for name in ("config.json", "removal.json", "removal.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    slim = reload(tmp_path / "out")
    assert record["removed"] == made["removed"]
    assert record["sparsity_of_all"] == made["sparsity_of_all"]
    assert record["dense"]["parameters"] == reload(model).num_parameters()
    assert slim.num_parameters() == record["sparse"]["parameters"]
    assert record["pruned"]["parameters"] == record["sparse"]["parameters"]
    assert record["method_display"].endswith(", recovered")
    assert "none yet" not in record["gain"]
    # and it goes on from there, led to the same dense model
    again = recover(tmp_path / "out", tokens, tmp_path / "again", train="norms")
    assert PrunedPair(tmp_path / "again").dense_name == str(model)
    assert again["removed"] == made["removed"]


@pytest.mark.parametrize("gone", [(0,), (1, 2), (2, 4), (0, 1, 3)])
def test_a_block_is_led_to_where_the_next_one_that_stays_begins(
    gone: tuple[int, ...], llama: Path, tokens: Tensor, tmp_path: Path
) -> None:
    """Beside the hidden states as plain transformers compute them, for the first block."""
    stay = [i for i in range(5) if i not in gone]
    exclude = tuple(f"model.layers.{i}.*" for i in stay)
    made = methods.depth(sparsity=0.99)
    with pytest.raises(SteppeError):  # all that may go at once: the budget leaves one
        steppe.prune(llama, methods.depth(sparsity=0.999), tokens, tmp_path / "no")
    steppe.prune(llama, made, tokens, tmp_path / "cut", exclude=exclude)
    pair = PrunedPair(tmp_path / "cut")
    assert pair.places(len(stay), 5) == stay
    record = recover(tmp_path / "cut", tokens, tmp_path / "out", include=("*",))
    _, judged = windows_apart(10, 1)
    dense = streams(reload(llama), tokens[judged])
    slim = streams(reload(tmp_path / "cut"), tokens[judged])
    after = streams(reload(tmp_path / "out"), tokens[judged])
    target = dense[stay[1]]
    rows = record["blocks"][0]["held_out"]
    row = rows["block"] if stay[1] > 1 else rows["mlp"]

    def error(found: Tensor) -> float:
        return float((found - target).square().sum() / target.square().sum())

    if stay[1] > 1:
        assert row["start"] == pytest.approx(error(slim[1]), rel=1e-3)
    best = row["trained"] if row["kept"] == "trained" else row["start"]
    assert best == pytest.approx(error(after[1]), rel=1e-3)
    assert list(record["blocks"][-1]["held_out"]) == (
        ["self_attn", "mlp"] if stay[-1] == 4 else ["block"]
    )


@pytest.mark.parametrize("method", ["slim", "depth", "reap"])
def test_both_in_one_go_is_one_after_the_other(
    method: str, llama: Path, mixture: Path, tokens: Tensor, tmp_path: Path
) -> None:
    model = mixture if method == "reap" else llama
    record = cut(model, method, tokens, tmp_path / "both", recover=True)
    cut(model, method, tokens, tmp_path / "cut")
    apart = steppe.recover(tmp_path / "cut", tokens, tmp_path / "apart", measure=0)
    assert same_on_disk(tmp_path / "both", tmp_path / "apart")
    assert record["pruning"]["method"] == method
    assert record["removed"] == apart["removed"]
    assert (tmp_path / "both" / "removal.json").is_file()
    assert not (tmp_path / "both" / "checkpoints" / "pruned").exists()
    assert cut(model, method, tokens, tmp_path / "both", recover=True) == record


def test_a_stopped_one_goes_on_to_the_same_bits(
    llama: Path, tokens: Tensor, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        raise Stop

    cut(llama, "depth", tokens, tmp_path / "cut")
    recover(tmp_path / "cut", tokens, tmp_path / "whole")
    with pytest.raises(Stop):
        recover(tmp_path / "cut", tokens, tmp_path / "out", report=stop)
    recover(tmp_path / "cut", tokens, tmp_path / "out")
    assert same_on_disk(tmp_path / "whole", tmp_path / "out")


def test_depth_then_width_then_zeros(llama: Path, tokens: Tensor, tmp_path: Path) -> None:
    """Three prunings one after the other, led back to what was before the first."""
    cut(llama, "depth", tokens, tmp_path / "a")
    cut(tmp_path / "a", "slim", tokens, tmp_path / "b")
    cut(tmp_path / "b", "wanda", tokens, tmp_path / "c")
    gone = json.loads((tmp_path / "a" / "record.json").read_text())["removed"]["blocks"]
    stay = [i for i in range(5) if f"model.layers.{i}" not in gone]
    assert PrunedPair(tmp_path / "c").places(len(stay), 5) == stay
    record = recover(tmp_path / "c", tokens, tmp_path / "out")
    before, after = on_disk(tmp_path / "c"), on_disk(tmp_path / "out")
    zeros = {n: t == 0 for n, t in before.items() if "proj" in n}
    assert all(bool((after[n][z] == 0).all()) for n, z in zeros.items())
    assert sum(int(z.sum()) for z in zeros.values()) > 0
    assert record["dense"]["parameters"] == reload(llama).num_parameters()
    assert record["sparsity_reached"] == record["pruning"]["sparsity_reached"]


def test_what_blocks_cannot_be_led_back_to(llama: Path, tokens: Tensor, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    cut(llama, "depth", tokens, tmp_path / "cut")
    wider = LlamaConfig(**SIZES | {"hidden_size": 32, "head_dim": 4})
    LlamaForCausalLM(wider).save_pretrained(tmp_path / "wider")
    deeper = LlamaConfig(**SIZES | {"num_hidden_layers": 7})
    LlamaForCausalLM(deeper).save_pretrained(tmp_path / "deeper")
    said = {"wider": "16 in .*32 in", "deeper": "no record that says which"}
    for name, got in said.items():
        with pytest.raises(SteppeError, match=got + ".*--scope whole") as refused:
            recover(tmp_path / "cut", tokens, tmp_path / "out", dense=tmp_path / name)
        assert "\n" not in str(refused.value)
    with pytest.raises(SteppeError, match=r"whole is in memory.*--scope whole"):
        recover(tmp_path / "cut", tokens, tmp_path / "out", streamed="never")
    shutil.copytree(tmp_path / "cut", tmp_path / "unknown")
    (tmp_path / "unknown" / "record.json").unlink()
    with pytest.raises(SteppeError, match="same weights but for their values"):
        recover(tmp_path / "unknown", tokens, tmp_path / "out", dense=llama)
    assert not (tmp_path / "out").exists()


def test_refused_before_a_folder_is_begun(llama: Path, tokens: Tensor, tmp_path: Path) -> None:
    with pytest.raises(SteppeError, match="--sparsity"):
        steppe.prune(llama, methods.depth(sparsity=0.01), tokens, tmp_path / "o", recover=True)
    assert not (tmp_path / "o").exists()


def test_a_model_that_lies_where_its_start_was_is_not_its_own_past(
    llama: Path, tokens: Tensor, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(llama, model)
    steppe.prune(model, methods.magnitude(sparsity=0.5), None, tmp_path / "pruned", measure=0)
    shutil.rmtree(model)
    (tmp_path / "pruned").rename(model)
    assert not PrunedPair(model, str(llama)).is_cut


def test_patterns_of_blocks_with_new_numbers_are_not_asked_for_again(
    llama: Path, tokens: Tensor, tmp_path: Path
) -> None:
    """The last block stays, and is another number's afterwards."""
    kept = ("model.layers.4.*",)
    record = cut(llama, "depth", tokens, tmp_path / "out", exclude=kept, recover=True)
    assert len(record["blocks"]) == 3
    assert "model.layers.4" not in record["removed"]["blocks"]
