"""The class of a folder's model, and the modules that are its blocks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from steppe import SteppeError
from steppe.core.prunable import selection
from steppe.llm.architecture import (
    answers_in_tokens,
    block_names,
    class_of,
    dense_in,
    other_lists,
)
from steppe.llm.skeleton import skeleton

TEXT = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def of(config: Any, *architectures: str) -> Any:
    config.architectures = list(architectures)
    return skeleton(config, torch.float32)


def gemma3(depth: int, width: int) -> Any:
    from transformers import Gemma3Config

    vision = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    text = TEXT | {"num_key_value_heads": 2, "head_dim": 8}
    return Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)


@pytest.mark.parametrize(("depth", "width"), [(1, 16), (2, 64), (2, 16)])
def test_a_vision_tower_is_never_the_decoder(depth: int, width: int) -> None:
    model = of(gemma3(depth, width), "Gemma3ForConditionalGeneration")
    assert block_names(model) == [f"model.language_model.layers.{i}" for i in range(2)]
    assert answers_in_tokens(model)
    assert other_lists(model, block_names(model)) == []


def test_the_text_of_a_model_of_images() -> None:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    config = LlavaConfig(text_config=LlamaConfig(**TEXT), vision_config=vision)
    model = of(config, "LlavaForConditionalGeneration")
    assert block_names(model) == [f"model.language_model.layers.{i}" for i in range(2)]


def test_lists_beside_each_other_take_turns() -> None:
    from transformers import XLMConfig

    config = XLMConfig(vocab_size=48, emb_dim=16, n_layers=2, n_heads=2, causal=True)
    names = block_names(of(config, "XLMWithLMHeadModel"))
    assert names == [f"transformer.{kind}.{i}" for i in range(2) for kind in ("attentions", "ffns")]


def bart(**more: int) -> Any:
    from transformers import BartConfig

    sizes = {
        "vocab_size": 48,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
    }
    return BartConfig(**sizes | more)


def test_a_decoder_of_another_depth_than_its_encoder() -> None:
    names = block_names(of(bart(), "BartForCausalLM"))
    assert names == [f"model.decoder.layers.{i}" for i in range(3)]


def test_an_encoder_comes_before_its_decoder() -> None:
    model = of(bart(), "BartForConditionalGeneration")
    assert [n.split(".")[1] for n in block_names(model)] == ["encoder"] * 2 + ["decoder"] * 3
    assert not answers_in_tokens(model)


def llama() -> Any:
    from transformers import LlamaConfig

    return of(LlamaConfig(**TEXT), "LlamaForCausalLM")


def test_lists_that_are_none_of_the_blocks_are_named() -> None:
    model = llama()
    model.more = nn.ModuleList([nn.Sequential(nn.Linear(1, 1))])
    model.bare = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    names = block_names(model)
    assert names == ["model.layers.0", "model.layers.1"]
    assert other_lists(model, names) == ["more"]


def test_no_blocks() -> None:
    model = llama()
    del model.model.layers
    with pytest.raises(SteppeError, match=r"none of 2 modules in LlamaForCausalLM.*sparsify"):
        block_names(model)


def test_blocks_that_share_a_weight() -> None:
    model = llama()
    first, second = model.model.layers
    second.mlp.up_proj.weight = first.mlp.up_proj.weight
    with pytest.raises(SteppeError, match=r"mlp\.up_proj\.weight in both model\.layers\.0 and"):
        block_names(model)


@pytest.mark.parametrize(
    ("name", "architectures", "kind"),
    [
        ("Llama", [], "AutoModelForCausalLM"),
        ("Llama", ["LlamaForCausalLM"], "AutoModelForCausalLM"),
        ("Llama", ["LlamaModel"], "LlamaModel"),
        ("Bert", ["BertForSequenceClassification"], "BertForSequenceClassification"),
        ("T5", ["T5ForConditionalGeneration"], "T5ForConditionalGeneration"),
    ],
)
def test_the_class(name: str, architectures: list[str], kind: str) -> None:
    import transformers

    config = getattr(transformers, f"{name}Config")()
    assert class_of(config, architectures).__name__ == kind


def test_what_calibration_does_not_see_or_others_make_stays_dense_and_is_named() -> None:
    block = nn.ModuleDict({"lstm": nn.LSTM(4, 4), "up": nn.ConvTranspose1d(4, 4, 2)})
    block["made"] = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    block["plain"] = nn.Linear(4, 4)
    model = nn.ModuleDict({"layers": nn.ModuleList([block]), "tail": nn.GRUCell(4, 4)})
    unseen = "dense, calibration does not see its inputs"
    assert dense_in(selection(model), ["layers.0"]) == {
        "layers.*.lstm.weight_ih_l0": unseen,
        "layers.*.lstm.weight_hh_l0": unseen,
        "layers.*.up.weight": unseen,
        "layers.*.made.weight": "dense, Linear, made by weight_norm",
    }
