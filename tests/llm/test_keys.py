"""Which tensors of a checkpoint make which parameters: packed experts, prefixes, gaps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel, MixtralForCausalLM

from steppe import SteppeError, methods, prune
from steppe.llm.architecture import block_names
from steppe.llm.checkpoint import Checkpoint
from steppe.llm.keys import REST, Keys
from steppe.llm.model import StreamedModel
from steppe.llm.skeleton import read_config, skeleton
from steppe.llm.streamed import streamed_perplexity


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Mixtral of two blocks with two experts."""
    from transformers import MixtralConfig, MixtralForCausalLM

    folder = tmp_path_factory.mktemp("mixture")
    config = MixtralConfig(
        vocab_size=9,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    return folder


def made(folder: Path) -> tuple[Any, Keys]:
    model = skeleton(read_config(folder), torch.float32)
    return model, Keys(model, Checkpoint(folder), block_names(model))


def test_each_tensor_belongs_somewhere(mixture: Path) -> None:
    _, keys = made(mixture)
    assert sorted(keys.of) == [REST, 0, 1]
    assert sorted(k for group in keys.of.values() for k in group) == sorted(
        Checkpoint(mixture).files
    )
    assert sorted(keys.of[REST]) == [
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.norm.weight",
    ]
    assert all(k.startswith("model.layers.1.") for k in keys.of[1])


def test_experts_are_packed_and_unpacked(mixture: Path) -> None:
    model, keys = made(mixture)
    keys.fill(keys.of[1], torch.float32)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    packed = model.get_parameter(name)
    held = load_file(mixture / "model.safetensors")
    own = "model.layers.1.block_sparse_moe.experts.1"
    assert torch.equal(packed[1], torch.cat([held[f"{own}.w1.weight"], held[f"{own}.w3.weight"]]))
    # reading embeddings in between must not make it forget how experts are stored
    keys.fill(keys.of[REST], torch.float32)
    written = keys.written({name: packed.detach()})
    assert len(written) == 4
    assert all(torch.equal(held[key], tensor) for key, tensor in written.items())


def test_dtypes_are_those_of_the_parts(mixture: Path, tmp_path: Path) -> None:
    weights = load_file(mixture / "model.safetensors")
    kinds = {n: t if "norm" in n else t.bfloat16() for n, t in weights.items()}
    (tmp_path / "config.json").write_text((mixture / "config.json").read_text())
    save_file(kinds, tmp_path / "model.safetensors", {"format": "pt"})
    _, keys = made(tmp_path)
    assert keys.dtype("model.layers.0.mlp.experts.down_proj") == torch.bfloat16
    assert keys.dtype("model.layers.0.input_layernorm.weight") == torch.float32
    assert keys.dtype("a name that no tensor makes") == torch.bfloat16


def test_an_expert_that_is_missing(mixture: Path, tmp_path: Path) -> None:
    weights = load_file(mixture / "model.safetensors")
    del weights["model.layers.1.block_sparse_moe.experts.1.w2.weight"]
    (tmp_path / "config.json").write_text((mixture / "config.json").read_text())
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(SteppeError, match=r"too little for model\.layers\.1\.mlp\.experts\.down"):
        StreamedModel(str(tmp_path))


def test_parameters_that_stayed_empty(mixture: Path) -> None:
    model, keys = made(mixture)
    name = "model.layers.0.mlp.experts.down_proj"
    with pytest.raises(SteppeError, match=rf"no {name}, in "):
        keys.check_filled({name: model.get_parameter(name)})
    keys.fill(keys.of[0], torch.float32)
    keys.check_filled({name: model.get_parameter(name)})


def changed(folder: Path, to: Path, change: Any, **config: Any) -> Path:
    """A copy of a model's folder with other weights and another config."""
    shutil.copytree(folder, to)
    weights = load_file(to / "model.safetensors")
    change(weights)
    save_file(weights, to / "model.safetensors", {"format": "pt"})
    described = json.loads((to / "config.json").read_text()) | config
    (to / "config.json").write_text(json.dumps(described))
    return to


def losses(folder: Path, scratch: Path) -> tuple[float, float]:
    """Plain transformers' loss and ours."""
    from transformers import AutoModelForCausalLM

    tokens = torch.randint(3, 9, (4, 8))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(tokens).logits[:, :-1].flatten(0, 1)
    plain = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten()).item()
    scratch.mkdir()
    return plain, streamed_perplexity(StreamedModel(str(folder)), tokens, scratch, 4)["loss"]


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@pytest.mark.parametrize(
    "change",
    [
        lambda w: None,
        lambda w: w.pop(HEAD),
        lambda w: w.pop(EMBEDDING),
        lambda w: w.update({HEAD: w[EMBEDDING].clone()}),
    ],
    ids=["own head", "no head", "no embedding", "equal head"],
)
def test_the_checkpoint_says_what_is_tied(change: Any, mixture: Path, tmp_path: Path) -> None:
    folder = changed(mixture, tmp_path / "model", change, tie_word_embeddings=True)
    plain, ours = losses(folder, tmp_path / "scratch")
    assert ours == pytest.approx(plain, abs=1e-5)
    model = StreamedModel(str(folder))
    own = sum(p.numel() for p in MixtralForCausalLM.from_pretrained(folder).parameters())
    assert model.parameters() == own


def test_a_head_that_is_missing(mixture: Path, tmp_path: Path) -> None:
    folder = changed(mixture, tmp_path / "m", lambda w: w.pop(HEAD), tie_word_embeddings=False)
    with pytest.raises(SteppeError, match=r"no lm_head\.weight.*\"tie_word_embeddings\": true"):
        StreamedModel(str(folder))


@pytest.mark.parametrize("tied", [True, False])
def test_biases_that_are_tied(tied: bool, tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=9,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        is_decoder=True,
        tie_word_embeddings=tied,
    )
    bert = BertLMHeadModel(config)
    torch.nn.init.normal_(bert.cls.predictions.bias)
    bert.save_pretrained(tmp_path / "bert")
    plain, ours = losses(tmp_path / "bert", tmp_path / "scratch")
    assert ours == pytest.approx(plain, abs=1e-5)


def further(weights: dict[str, torch.Tensor]) -> None:
    """A layer beyond the two that are counted, a part of no layer, a buffer of old."""
    layer = {k: v for k, v in weights.items() if "layers.1." in k}
    weights |= {k.replace("layers.1.", "layers.2."): v + 1 for k, v in layer.items()}
    weights["mtp.norm.weight"] = torch.ones(8)
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)


def test_layers_that_the_config_does_not_count(mixture: Path, tmp_path: Path) -> None:
    folder = changed(mixture, tmp_path / "model", further)
    model = StreamedModel(str(folder))
    assert len(model) == 2
    tokens = torch.randint(9, (2, 4))
    method = methods.magnitude(sparsity=0.5)
    record = prune(folder, method, tokens, tmp_path / "out", evaluate_window=4)
    assert record["sparsity_reached"] == 0.5
    said = " ".join(record["fallbacks"])
    assert "model.layers.2 (" in said
    assert "mtp.norm.weight: in the checkpoint but" in said
    before, after = Checkpoint(folder), Checkpoint(tmp_path / "out")
    assert set(before.files) == set(after.files)
    extra = [k for k in before.files if "layers.2." in k or "mtp" in k or "inv_freq" in k]
    assert len(extra) == len(model._keys.extra)
    for key in extra:
        assert torch.equal(before.read([key])[key], after.read([key])[key])
    assert record["sparse"]["parameters"] == StreamedModel(str(mixture)).parameters()
    MixtralForCausalLM.from_pretrained(tmp_path / "out")


def test_what_the_model_does_not_use_is_never_whole_in_memory(
    mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steppe.llm.model.APART", 1)
    folder = changed(mixture, tmp_path / "model", further)
    prune(folder, methods.magnitude(sparsity=0.5), None, tmp_path / "out")
    extra = StreamedModel(str(folder))._keys.extra
    after = Checkpoint(tmp_path / "out")
    assert len({after.files[key] for key in extra}) == len(extra)


def test_sinusoids_that_no_checkpoint_holds(tmp_path: Path) -> None:
    from transformers import MarianConfig, MarianMTModel

    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    widths = {"encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "vocab_size": 9, "pad_token_id": 0}
    plain = MarianMTModel(MarianConfig(**sizes, **heads, **widths, decoder_start_token_id=0))
    plain.save_pretrained(tmp_path)
    name = "model.encoder.embed_positions.weight"
    assert name not in Checkpoint(tmp_path).files
    model = StreamedModel(str(tmp_path))
    model.load_rest(head=True)
    assert torch.equal(model.model.get_parameter(name), plain.get_parameter(name))
    assert bool(model.model.get_parameter(name).any())
