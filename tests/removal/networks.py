"""Small networks for the tests of removal, with every kind of coupling."""

from __future__ import annotations

import random

import torch
from torch import nn

from steppe.core.group import masks_of


def warm(model):
    """Weights, biases, scales and statistics that are all far from their initial values."""
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if "running_mean" in name:
                buffer.normal_(0, 0.2)
            if "running_var" in name:
                buffer.uniform_(0.5, 1.5)
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            else:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
    return model.eval()


def draw(groups, fraction=0.5, seed=0):
    """Group name -> which units stay: about so many go, at random, as the multiples allow."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for group in groups:
        left = max(group.least, round(group.units * (1 - fraction)))
        left = min(group.units, -(-left // group.multiple) * group.multiple)
        order = torch.rand(group.units, generator=generator).argsort()
        kept[group.name] = torch.zeros(group.units, dtype=torch.bool)
        kept[group.name][order[:left]] = True
    return kept


def zero(model, groups, kept):
    """Make what does not stay zero in the model itself; the masks."""
    masks = masks_of(groups, kept, dict(model.named_parameters()))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in masks:
                parameter.mul_(masks[name])
    return masks


class Node(nn.Module):
    """A convolution of some kind, a norm or none, an activation."""

    def __init__(self, c_in, c_out, kind, draw_from):
        super().__init__()
        groups = {"grouped": 2, "depthwise": c_in}.get(kind, 1)
        size = draw_from.choice([1, 3])
        bias = draw_from.random() < 0.5
        self.conv = nn.Conv2d(c_in, c_out, size, padding=size // 2, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(c_out) if draw_from.random() < 0.7 else nn.Identity()
        self.act = draw_from.choice([nn.ReLU, nn.Hardswish, nn.GELU, nn.Sigmoid])()

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class RandomNet(nn.Module):
    """Layers drawn at random, each of which reads earlier ones: alone, added or side by side."""

    def __init__(self, seed):
        super().__init__()
        choose = random.Random(seed)
        torch.manual_seed(seed)
        widths, self.reads, nodes = [], [], []
        for i in range(choose.randint(2, 6)):
            how = choose.choice(["one", "add", "cat"]) if i > 1 else "one"
            if how == "one":
                sources = [i - 1]
            else:
                sources = [i - 1, choose.randrange(i)]
                if how == "add" and widths[sources[0]] != widths[sources[1]]:
                    how = "cat"
            width = 3 if i == 0 else widths[sources[0]]
            if how == "cat":
                width = sum(widths[s] for s in sources)
            kind = choose.choice(["plain", "plain", "grouped", "depthwise"]) if i else "plain"
            c_out = choose.choice([4, 6, 8])
            if kind == "depthwise":
                c_out = width * choose.choice([1, 2])
            nodes.append(Node(width, c_out, kind, choose))
            widths.append(c_out)
            self.reads.append((how, sources))
        self.nodes = nn.ModuleList(nodes)
        self.tail = choose.choice(["flatten", "mean"])
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(widths[-1] * (4 if self.tail == "flatten" else 1), 7)
        self.head = nn.Linear(7, 3, bias=choose.random() < 0.5)

    def forward(self, x):
        made = []
        for node, (how, sources) in zip(self.nodes, self.reads, strict=True):
            if not made:
                read = x
            elif how == "add":
                read = made[sources[0]] + made[sources[1]]
            else:
                read = torch.cat([made[s] for s in sources], 1) if how == "cat" else made[-1]
            made.append(node(read))
        last = self.pool(made[-1])
        last = last.flatten(1) if self.tail == "flatten" else last.mean((2, 3))
        return self.head(torch.relu(self.hidden(last)))


def image_models():
    """name -> (function that builds an image classifier, shape of an image)."""
    from transformers import (
        MobileNetV1Config,
        MobileNetV1ForImageClassification,
        MobileNetV2Config,
        MobileNetV2ForImageClassification,
        ResNetConfig,
        ResNetForImageClassification,
    )

    from steppe.vision.models import build

    def resnet(kind):
        config = ResNetConfig(
            embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2], layer_type=kind, num_labels=5
        )
        return ResNetForImageClassification(config)

    small = {"image_size": 32, "depth_multiplier": 0.25, "num_labels": 5}
    image, grey = (3, 32, 32), (1, 8, 8)
    return {
        "resnet20": (lambda: build("resnet20", 10), image),
        "vgg11-bn": (lambda: build("vgg11-bn", 10), image),
        "lenet-300-100": (lambda: build("lenet-300-100", 10, grey), grey),
        "small-cnn": (lambda: build("small-cnn", 10, grey), grey),
        "resnet18-like": (lambda: resnet("basic"), image),
        "resnet50-like": (lambda: resnet("bottleneck"), image),
        "mobilenet-v1": (
            lambda: MobileNetV1ForImageClassification(MobileNetV1Config(**small)),
            image,
        ),
        "mobilenet-v2": (
            lambda: MobileNetV2ForImageClassification(MobileNetV2Config(**small)),
            image,
        ),
    }


def transformers_models():
    """name -> function that builds a small transformer."""
    import transformers as hf

    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    words = {"vocab_size": 50, **size}
    few = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}
    image = {"image_size": 16, "patch_size": 8, "num_attention_heads": 4, **size}
    gpt2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 4}
    ends = {"bos_token_id": 0, "eos_token_id": 1}
    opt = {"vocab_size": 50, "hidden_size": 16, "ffn_dim": 24, "word_embed_proj_dim": 16, **ends}
    opt |= {"num_hidden_layers": 2, "num_attention_heads": 4}
    return {
        "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**words, **few)),
        "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**words, **few)),
        "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**image)),
        "bert": lambda: hf.BertForSequenceClassification(
            hf.BertConfig(**words, num_attention_heads=4)
        ),
        "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**gpt2, **ends)),
        "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(**opt)),
        "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**words, num_attention_heads=4)),
        "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**words, **few, pad_token_id=0)),
    }
