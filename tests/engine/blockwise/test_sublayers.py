"""Blocks taken apart into residual sub-layers: what is found, and that it composes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steppe.engine.blockwise.containers import leaves
from steppe.engine.blockwise.sublayers import continued, sublayers


def call(state: Tensor, module: nn.Module) -> Tensor:
    returned = module(state)
    return returned[0] if isinstance(returned, tuple) else returned


class Parallel(nn.Module):
    """Both branches read one norm of one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.one, self.other = nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.one(self.norm(x)) + self.other(self.norm(x))


class NormBehind(nn.Module):
    """Each sum is normed: the stream is no sum of branches."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.first, self.other = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)
        nn.init.normal_(self.first.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x + self.one(x))
        return x + self.other(x)


class InPlace(nn.Module):
    """The stream is added to what a branch returns."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for branch in (self.one, self.other):
            out = branch(x)
            out += x
            x = out
        return x


class Sandwich(nn.Module):
    """Norms before and behind each branch, as Gemma has them; tuples as transformers return."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.behind = nn.RMSNorm(4), nn.RMSNorm(4)
        self.attention, self.last = nn.Linear(4, 4, bias=False), nn.RMSNorm(4)
        self.mix = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = x + self.behind(self.attention(self.before(x)))
        return (x + self.last(self.mix(x)),)


@pytest.mark.parametrize("kind", [Parallel, NormBehind])
def test_what_is_no_sequence_of_two_is_one_stage(kind: type[nn.Module]) -> None:
    assert sublayers(kind(), ["one", "other"], call, torch.randn(2, 3, 4)) == ()


def test_norms_behind_a_branch_belong_to_it() -> None:
    block, x = Sandwich(), torch.randn(2, 3, 4)
    attention, mix = sublayers(block, ["attention", "mix"], call, x)
    own = {"before.weight", "behind.weight", "attention.weight"}
    every = {n for n, _ in block.named_parameters()}
    assert every - attention.apart(x) == own
    assert every - mix.apart(x) == every - own
    assert not any(p.grad is not None for p in block.parameters())


@pytest.mark.parametrize("kind", ["plain", "conv1d", "experts"])
def test_they_compose_to_the_block(kind: str, toy: ModuleType) -> None:
    row = toy.Row(kind=kind)
    block = row.load(0)
    x = row.inputs(0, toy.tokens())
    first, second = sublayers(block, ["attention", "feed_forward"], call, x)
    assert (first.children, second.children) == (("attention",), ("feed_forward",))
    between = first.forward(x, block)
    assert torch.equal(between, x + block.attention(block.norm(x))[0])
    assert torch.equal(second.forward(between, block), block(x))
    assert not torch.equal(between, x)
    assert all("forward" not in vars(m) for m in block.modules())


def test_a_silent_branch_stays_silent_where_its_output_is_changed_in_place() -> None:
    block, x = InPlace(), torch.randn(2, 3, 4)
    with torch.no_grad():
        first, second = sublayers(block, ["one", "other"], call, x)
        for _ in range(3):
            assert torch.equal(first.forward(x, block), x + block.one(x))
            assert torch.equal(second.forward(x, block), x + block.other(x))


def test_a_stream_is_put_in_the_place_of_the_first_numbers() -> None:
    rows, stream = torch.arange(10.0).view(2, 5), -torch.ones(2, 1, 3)
    assert continued(rows, stream).tolist() == [[-1, -1, -1, 3, 4], [-1, -1, -1, 8, 9]]
    assert torch.equal(continued(stream, 2 * stream), 2 * stream)


FAMILIES: dict[str, tuple[str, dict[str, Any], list[tuple[str, ...]]]] = {
    "llama": ("Llama", {}, [("self_attn",), ("mlp",)]),
    "gemma2": ("Gemma2", {"head_dim": 8}, [("self_attn",), ("mlp",)]),
    "mixtral": ("Mixtral", {"num_local_experts": 2}, [("self_attn",), ("mlp",)]),
    "opt": (
        "OPT",
        {"ffn_dim": 24, "word_embed_proj_dim": 16},
        [("self_attn",), ("fc1", "fc2")],
    ),
    "gpt2": ("GPT2", {"n_embd": 16, "n_head": 2, "n_layer": 1}, [("attn",), ("mlp",)]),
    "gpt-neox": ("GPTNeoX", {}, []),
    "phi": ("Phi", {}, []),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families_by_what_they_compute(name: str) -> None:
    import transformers

    kind, own, expected = FAMILIES[name]
    options = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 24}
    options |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = getattr(transformers, f"{kind}Config")(**options | own)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for p in model.parameters():
        p.add_(0.3 * torch.randn_like(p))
    layers = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
    seen: list[Any] = []
    handle = layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    ids = torch.randint(20, (2, 6))
    model(ids, use_cache=False)
    handle.remove()
    (args, kwargs) = seen[0]

    def run(state: Tensor, module: nn.Module) -> Tensor:
        returned = module(state, *args[1:], **kwargs)
        return next(x for _, x in leaves(returned) if isinstance(x, Tensor))

    order = [n for n, m in layers[0].named_children() if any(p.ndim > 1 for p in m.parameters())]
    found = sublayers(layers[0], order, run, args[0])
    assert [s.children for s in found] == expected
