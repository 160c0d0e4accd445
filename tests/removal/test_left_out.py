"""Nothing is left out in silence: every weight is in a group, or named with its reason."""

from __future__ import annotations

import pytest
import torch
import torch.nn.utils.prune
import transformers as hf
from torch import nn

from steppe.removal.channel_groups import coupled_channels

IMAGE = torch.zeros(2, 3, 32, 32)


def mixtral():
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 48}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return hf.MixtralForCausalLM(hf.MixtralConfig(**size, **heads, num_local_experts=2))


def gptj():
    size = {"n_embd": 16, "n_layer": 1, "n_head": 4, "rotary_dim": 4}
    return hf.GPTJForCausalLM(hf.GPTJConfig(vocab_size=48, **size))


def detr():
    backbone = hf.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        out_features=["stage2"],
    )
    sides = ("encoder", "decoder")
    layers = {f"{side}_layers": 1 for side in sides} | {f"{side}_ffn_dim": 24 for side in sides}
    heads = {f"{side}_attention_heads": 2 for side in sides}
    return hf.DetrForObjectDetection(
        hf.DetrConfig(
            backbone_config=backbone,
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            d_model=16,
            num_queries=5,
            **layers,
            **heads,
        )
    )


class Words(nn.Module):
    """An embedding whose width is the stream of a small transformer, and attention of torch."""

    def __init__(self):
        super().__init__()
        self.words, self.unused = nn.Embedding(20, 8), nn.Linear(3, 5)
        self.block = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.rnn, self.head = nn.LSTM(8, 6, batch_first=True, proj_size=3), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.rnn(self.block(self.words(x)))[0])


def normed():
    parametrized = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
    return nn.Sequential(parametrized, nn.ReLU(), nn.Conv2d(8, 7, 3), nn.Conv2d(7, 2, 1))


TOKENS = {"input_ids": torch.randint(3, 20, (2, 8))}
MODELS = {
    "experts": (mixtral, TOKENS, "experts.down_proj"),
    "an MLP of other names": (gptj, TOKENS, "mlp.fc_in.weight"),
    "a backbone": (detr, {"pixel_values": IMAGE}, "embedder.convolution.weight"),
    "weight norm": (normed, IMAGE, "0.parametrizations.weight.original1"),
    "words": (Words, TOKENS["input_ids"], "words.weight"),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_is_in_a_group_or_named(name):
    make, example, left = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    coupled = coupled_channels(model, example)
    inside = {s.name for group in coupled.groups for s in group.slices}
    weights = [n for n, p in model.named_parameters() if p.ndim > 1]
    assert [n for n in weights if n not in inside and n not in coupled.left_out] == []
    assert any(n.endswith(left) for n in coupled.left_out)
    assert all(coupled.left_out.values())


def test_what_is_excluded_says_so():
    model = mixtral()
    coupled = coupled_channels(model, TOKENS, exclude=["*embed_tokens"])
    assert coupled.left_out["model.embed_tokens.weight"] == "is excluded"


def test_weights_that_others_are_computed_from_say_so():
    pruned = nn.utils.prune.l1_unstructured(nn.Conv2d(3, 8, 3), "weight", 0.5)
    net = nn.Sequential(pruned, nn.Conv2d(8, 7, 3), nn.Conv2d(7, 2, 1))
    assert "prune.remove" in coupled_channels(net, IMAGE).left_out["0.weight_orig"]
    assert (
        "remove_parametrizations"
        in coupled_channels(normed(), IMAGE).left_out[MODELS["weight norm"][2]]
    )


def test_a_backbone_is_traced_where_all_that_is_known_by_name_is_excluded():
    coupled = coupled_channels(
        detr(), {"pixel_values": IMAGE}, exclude=["model.encoder*", "model.decoder*"]
    )
    names = {group.name for group in coupled.groups}
    assert "model.backbone.model.embedder.embedder.convolution.weight" in names
    assert not any(name.startswith(("model.encoder", "model.decoder")) for name in names)
