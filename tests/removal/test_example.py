"""Batches that are made for models of transformers."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from torch import nn

from steppe.core.errors import SteppeError
from steppe.removal.example import example_of

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4}


def t5():
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 1, "num_heads": 4}
    return hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=48, **sizes))


def clip():
    config = hf.CLIPConfig(
        text_config={**SMALL, "vocab_size": 48, "intermediate_size": 24},
        vision_config={**SMALL, "image_size": 16, "patch_size": 8, "intermediate_size": 24},
        projection_dim=8,
    )
    return hf.CLIPModel(config)


def vit():
    return hf.ViTModel(hf.ViTConfig(**SMALL, intermediate_size=24, image_size=16, patch_size=8))


def whisper():
    layers = {f"{side}_layers": 1 for side in ("encoder", "decoder")}
    heads = {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    sizes = {"vocab_size": 48, "d_model": 16, "num_mel_bins": 8, "max_source_positions": 6}
    return hf.WhisperModel(hf.WhisperConfig(**sizes, **layers, **heads, **tokens))


def hubert():
    convs = {"conv_dim": [8, 8], "conv_kernel": [8, 4], "conv_stride": [4, 2]}
    return hf.HubertModel(hf.HubertConfig(**SMALL, intermediate_size=24, **convs))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (whisper, {"input_features", "decoder_input_ids"}),
        (hubert, {"input_values"}),
        (t5, {"input_ids", "decoder_input_ids"}),
        (clip, {"input_ids", "pixel_values"}),
        (vit, {"pixel_values"}),
    ],
)
def test_the_model_accepts_what_is_made(make, names):
    model = make()
    inputs = example_of(model)
    assert set(inputs) == names
    with torch.no_grad():
        model(**inputs)


def test_other_models_ask_for_a_batch():
    with pytest.raises(SteppeError, match="give one batch"):
        example_of(nn.Linear(3, 2))
