"""Biases of zero for models that have none: the same model, in a folder of links."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from steppe import SteppeError
from steppe.llm.model import StreamedModel
from steppe.llm.structured.biases import BIASES, bias_flags, with_biases

SIZES = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def saved(folder: Path, kind: str = "Llama", shard: str = "1GB", **options: Any) -> StreamedModel:
    import transformers

    config = getattr(transformers, f"{kind}Config")(**SIZES | options)
    model = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size=shard)
    return StreamedModel(str(folder))


def reading(model: StreamedModel, kind: str) -> list[Any]:
    return [x for x in model.layers() if x.reads == kind]


@pytest.mark.parametrize(
    ("kinds", "flags"),
    [
        (["neurons"], {"mlp_bias": True}),
        (["heads"], {"attention_bias": True}),
        (["heads", "neurons"], {"attention_bias": True, "mlp_bias": True}),
    ],
)
def test_the_flags_that_are_needed_and_no_others(
    kinds: list[str], flags: dict[str, bool], tmp_path: Path
) -> None:
    model = saved(tmp_path / "dense")
    layers = [x for kind in kinds for x in reading(model, kind)]
    assert bias_flags(model, layers) == flags
    made = StreamedModel(str(with_biases(model, flags, tmp_path / "biased")))
    assert bias_flags(made, [x for kind in kinds for x in reading(made, kind)]) == {}


@pytest.mark.parametrize(("kind", "reads"), [("Mistral", "heads"), ("Qwen3", "neurons")])
def test_families_without_a_flag_are_refused(kind: str, reads: str, tmp_path: Path) -> None:
    model = saved(tmp_path / "dense", kind)
    with pytest.raises(SteppeError, match=r"which the config must know.*method slim") as refused:
        bias_flags(model, reading(model, reads))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("shard", ["1GB", "10KB"])
def test_it_is_the_same_model(shard: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    dense = saved(tmp_path / "dense", shard=shard, tie_word_embeddings=True)
    flags = {"attention_bias": True, "mlp_bias": True}
    out = with_biases(dense, flags, tmp_path / "biased")
    links = [p for p in out.iterdir() if p.suffix == ".safetensors" and p.name != BIASES]
    assert links
    assert all(p.is_symlink() for p in links), "the weights were copied"
    one = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype="auto")
    other, found = AutoModelForCausalLM.from_pretrained(out, dtype="auto", output_loading_info=True)
    assert not any(found.values()), found
    new = {n: p for n, p in other.named_parameters() if n not in dict(one.named_parameters())}
    assert len(new) == 2 * 7
    assert all(p.dtype == torch.bfloat16 and not p.any() for p in new.values())
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(one(ids).logits, other(ids).logits)
    assert json.loads((out / "config.json").read_text()).items() >= flags.items()


def test_one_that_was_begun_is_made_whole(tmp_path: Path) -> None:
    model, out = saved(tmp_path / "dense"), tmp_path / "biased"
    with_biases(model, {"mlp_bias": True}, out)
    before = (out / BIASES).read_bytes()
    (out / "model.safetensors.index.json").unlink()
    (out / BIASES).unlink()
    with_biases(model, {"mlp_bias": True}, out)
    assert (out / BIASES).read_bytes() == before
    StreamedModel(str(out)).checkpoint.check_finite()
