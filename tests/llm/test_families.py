"""Every family of causal language models: streamed as it computes, pruned exactly, read by plain
transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from language_models import (
    FAMILIES,
    VOCABULARY,
    WIDE_HEADS,
    WIDTH,
    Saved,
    build,
    on_disk,
    random_model,
    reload,
    windows,
)
from steppe import SteppeError, methods
from steppe.core.layer import Layer
from steppe.engine.blockwise.config import ReconstructionConfig
from steppe.llm.model import StreamedModel
from steppe.llm.prune import prune


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory)


def zeros(layer: Layer, weight: Tensor) -> list[Tensor]:
    """Where a layer's zeros are, ``[rows, inputs]``; for each expert of its own."""
    parts = list(weight) if layer.stacked else [weight]
    return [p.matrix(w) == 0 for p, w in zip(layer.split(), parts, strict=True)]


def check(old: Path, new: Path, structure: str, trained: bool = False) -> None:
    """Exact zeros in what is prunable, by plain transformers; all else as it was."""
    layers = {x.name: x for x in StreamedModel(str(old)).layers()}
    before, model = reload(old).state_dict(), reload(new)
    after = model.state_dict()
    for name, layer in layers.items():
        assert not torch.equal(after[name], before[name]), f"{name} is dense"
        for found in zeros(layer, after[name]):
            if structure == "2:4":
                assert bool((found.view(len(found), -1, 4).sum(-1) == 2).all()), name
            else:
                assert int(found.sum()) == found.numel() // 2, name
    # a block that is optimised as a whole also learns its norms and biases
    inside = next(iter(layers)).split(".0.")[0]
    for name, tensor in before.items():
        if name not in layers and not (trained and name.startswith(inside)):
            assert torch.equal(after[name], tensor), f"{name} was changed"
    assert set(on_disk(new)) == set(on_disk(old)), "other names than the checkpoint had"
    model.generate(windows(1, 4), max_new_tokens=3, do_sample=False, pad_token_id=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_streamed_as_the_model_computes(name: str, saved: Saved) -> None:
    folder = saved(name)
    model, plain = StreamedModel(str(folder)), reload(folder, experts_implementation="eager")
    for tokens in (windows(3, 20), windows(1, 11)):
        hidden = model.embed(tokens)
        for index in range(len(model)):
            model.load(index)
            hidden = model.call(index, hidden)
            model.free(index)
        with torch.no_grad():
            expected = plain(tokens).logits
        assert torch.equal(model.logits(tokens, hidden), expected)
        flat = model.head(hidden.flatten(0, 1)).view_as(expected)
        torch.testing.assert_close(flat, expected)


@pytest.mark.parametrize("structure", ["unstructured", "2:4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_sparsegpt(name: str, structure: str, saved: Saved, tmp_path: Path) -> None:
    # once from one file, once from several
    folder = saved(name, "1GB" if structure == "unstructured" else "10KB")
    if structure == "2:4":
        assert len(list(folder.glob("model-*.safetensors"))) > 1
    method = methods.sparsegpt(sparsity=0.5, structure=structure)
    record = prune(folder, method, windows(12), tmp_path / "out")
    check(folder, tmp_path / "out", structure)
    assert record["fallbacks"] == []
    errors = [x["output_error"] for row in record["blocks"] for x in row["layers"]]
    assert 0.0 < min(errors)
    assert max(errors) < 0.5


@pytest.mark.parametrize("structure", ["unstructured", "2:4"])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "alps", "safe"])
@pytest.mark.parametrize("name", ["llama-grouped", "gpt2", "qwen2-moe", "gpt-oss"])
def test_methods(name: str, method: str, structure: str, saved: Saved, tmp_path: Path) -> None:
    reconstruction = ReconstructionConfig(epochs=1, warmup_epochs=0, batch_size=2, lr=1e-3)
    options = {"budget": "uniform"} if method != "safe" else {}
    made = methods.make(method, sparsity=0.5, structure=structure, **options)
    record = prune(saved(name), made, windows(), tmp_path / "out", reconstruction=reconstruction)
    assert record["sparsity_reached"] == 0.5
    if method == "safe" and structure == "unstructured":
        weights = reload(tmp_path / "out").state_dict()
        layers = StreamedModel(str(tmp_path / "out")).layers()
        found = [z for x in layers for z in zeros(x, weights[x.name])]
        assert sum(int(z.sum()) for z in found) * 2 == sum(z.numel() for z in found)
    else:
        check(saved(name), tmp_path / "out", structure, trained=method == "safe")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_stored_dtypes_stay(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    build(name).to(dtype).save_pretrained(tmp_path / "dense")
    prune(tmp_path / "dense", methods.sparsegpt(sparsity=0.5), windows(), tmp_path / "out")
    check(tmp_path / "dense", tmp_path / "out", "unstructured")
    assert {t.dtype for t in on_disk(tmp_path / "out").values()} == {dtype}
    assert reload(tmp_path / "out", dtype="auto").dtype == dtype


def test_several_dtypes_in_one_model(tmp_path: Path) -> None:
    model = build("mixtral").to(torch.bfloat16)
    for name, p in model.named_parameters():
        if p.ndim == 1 or name.endswith("mlp.gate.weight"):
            # numbers that bfloat16 does not hold
            p.data = p.data.float() + 0.001 * torch.randn(p.shape)
    model.save_pretrained(tmp_path / "dense")
    prune(tmp_path / "dense", methods.sparsegpt(sparsity=0.5), windows(), tmp_path / "out")
    check(tmp_path / "dense", tmp_path / "out", "unstructured")
    old, new = on_disk(tmp_path / "dense"), on_disk(tmp_path / "out")
    assert {k: t.dtype for k, t in old.items()} == {k: t.dtype for k, t in new.items()}
    assert len({t.dtype for t in new.values()}) == 2


def test_experts_are_stored_one_by_one(saved: Saved) -> None:
    names = on_disk(saved("mixtral"))
    assert "model.layers.1.block_sparse_moe.experts.3.w2.weight" in names
    assert not any(t.ndim == 3 for t in names.values())


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_checkpoints_without_the_prefix(name: str, tmp_path: Path) -> None:
    """As openai-community/gpt2 is stored: the names of the model without its head."""
    model = build(name)
    model.base_model.save_pretrained(tmp_path / "dense")
    held = json.loads((tmp_path / "dense/config.json").read_text())
    held["architectures"] = [type(model).__name__]
    (tmp_path / "dense/config.json").write_text(json.dumps(held))
    before = reload(tmp_path / "dense").state_dict()
    record = prune(tmp_path / "dense", methods.wanda(sparsity=0.5), windows(), tmp_path / "out")
    assert record["sparsity_reached"] == 0.5
    after = reload(tmp_path / "out").state_dict()
    layers = {x.name for x in StreamedModel(str(tmp_path / "dense")).layers()}
    assert {n for n in before if not torch.equal(before[n], after[n])} == layers


@pytest.mark.parametrize("method", ["sparsegpt", "wanda", "alps"])
def test_experts_that_no_token_reaches(method: str, tmp_path: Path) -> None:
    many = {"num_local_experts": 8, "num_experts_per_tok": 1}
    build("mixtral", **many).save_pretrained(tmp_path / "dense")
    made = methods.make(method, sparsity=0.5, budget="uniform")
    # four tokens, one expert each: at least four of eight have none
    record = prune(tmp_path / "dense", made, windows(2, 2), tmp_path / "out")
    check(tmp_path / "dense", tmp_path / "out", "unstructured")
    before, after = (reload(tmp_path / x).state_dict() for x in ("dense", "out"))
    noted = [x.partition(":")[0] for x in record["fallbacks"] if "no calibration token" in x]
    assert len(noted) >= 2 * 2 * 4
    for name in noted:
        packed, _, expert = name.rpartition(".")
        old, new = before[packed][int(expert)], after[packed][int(expert)]
        kept = new != 0
        # nothing is known of its inputs: the largest weights stay
        assert old[kept].abs().min() >= old[~kept].abs().max()
        torch.testing.assert_close(new[kept], old[kept])


def test_experts_of_a_layout_that_is_not_known_stay_dense(tmp_path: Path) -> None:
    more = {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 24}
    options = WIDE_HEADS | more | {"interleave_moe_layer_step": 1, "attention_chunk_size": 8}
    random_model("Llama4Text", options).save_pretrained(tmp_path / "dense")
    record = prune(tmp_path / "dense", methods.wanda(sparsity=0.5), windows(), tmp_path / "out")
    assert [x.partition(":")[0] for x in record["fallbacks"]] == [
        "model.layers.*.feed_forward.experts.gate_up_proj",
        "model.layers.*.feed_forward.experts.down_proj",
    ]
    check(tmp_path / "dense", tmp_path / "out", "unstructured")


def test_state_space_models(tmp_path: Path) -> None:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 2}
    random_model("Mamba", sizes | {"state_size": 4}).save_pretrained(tmp_path / "dense")
    structured = methods.sparsegpt(structure="2:4")
    with pytest.raises(SteppeError, match=r"backbone\.layers\.0\.mixer\.conv1d\.weight"):
        prune(tmp_path / "dense", structured, windows(), tmp_path / "none")
    made = methods.sparsegpt(sparsity=0.5)
    record = prune(tmp_path / "dense", made, windows(), tmp_path / "out")
    check(tmp_path / "dense", tmp_path / "out", "unstructured")
    # a convolution over time is no product with tokens; all others are seen
    assert all("conv1d" in x for x in record["fallbacks"])
