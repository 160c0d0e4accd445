"""A row of small blocks for the engine, without transformers: what `Blockwise` asks of a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steppe.core.layer import Layer
from steppe.core.prunable import prunable
from steppe.core.serialization import write_tensors

WIDTH, INNER, TOKENS = 8, 12, 11


class Attention(nn.Module):
    """Three products with one input, mixed over the tokens, and a fourth."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, hidden: Tensor, scale: float = 1.0) -> tuple[Tensor, None]:
        weights = (self.q(hidden) @ self.k(hidden).transpose(-1, -2) * scale).softmax(-1)
        return self.o(weights @ self.v(hidden)), None


class Conv1D(nn.Module):
    """As transformers' of that name: the weight is stored inputs first."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.weight = nf, nn.Parameter(torch.randn(nx, nf) / nx**0.5)
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return out.view(*x.size()[:-1], self.nf)


class Experts(nn.Module):
    """As transformers packs them: (experts, outputs, inputs), one product per expert."""

    is_transposed, has_gate = False, False

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(experts, INNER, WIDTH) / WIDTH**0.5)
        self.down = nn.Parameter(torch.randn(experts, WIDTH, INNER) / INNER**0.5)
        # the last expert is never chosen
        self.register_buffer("route", torch.randn(WIDTH, experts - 1))

    def forward(self, hidden: Tensor) -> Tensor:
        flat = hidden.reshape(-1, WIDTH)
        chosen, out = (flat @ self.route).argmax(-1), torch.zeros_like(flat)
        for i in range(len(self.up)):
            where = (chosen == i).nonzero()[:, 0]
            if len(where):
                out[where] = F.linear(F.relu(F.linear(flat[where], self.up[i])), self.down[i])
        return out.reshape(hidden.shape)


def feed_forward(kind: str) -> nn.Module:
    if kind == "experts":
        return Experts(4)
    if kind == "conv1d":
        return nn.Sequential(Conv1D(INNER, WIDTH), nn.ReLU(), Conv1D(WIDTH, INNER))
    return nn.Sequential(
        nn.Linear(WIDTH, INNER, bias=False), nn.ReLU(), nn.Linear(INNER, WIDTH, bias=False)
    )


class Block(nn.Module):
    """Attention and feed-forward, each beside a skip."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.feed_forward = feed_forward(kind)

    def forward(self, hidden: Tensor, scale: float = 1.0) -> Tensor:
        hidden = hidden + self.attention(self.norm(hidden), scale=scale)[0]
        return hidden + self.feed_forward(hidden)


class Row:
    """Blocks that are made anew at every `load`, as if read from a file.

    Args:
        blocks: how many.
        kind: plain, conv1d or experts.
        seed: of the weights.
    """

    device = torch.device("cpu")
    chained = True

    def __init__(self, blocks: int = 3, kind: str = "plain", seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = nn.Module()
            self.model.blocks = nn.ModuleList(Block(kind) for _ in range(blocks))
            self.embedding = torch.randn(TOKENS, WIDTH)
        self.model.requires_grad_(False)
        self.blocks = self.model.blocks
        self.names = [f"blocks.{i}" for i in range(blocks)]
        self.held = [{n: t.clone() for n, t in block.state_dict().items()} for block in self.blocks]
        self.embedded = 0

    def __len__(self) -> int:
        return len(self.blocks)

    def layers(self, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> list[Layer]:
        found, _ = prunable(self.model, include, exclude)
        return [
            Layer(x.name, x.shape, x.transposed, x.stacked, ".".join(x.name.split(".")[:2]))
            for x in found
        ]

    def load(self, index: int) -> nn.Module:
        self.blocks[index].load_state_dict(self.held[index])
        return self.blocks[index]

    def free(self, index: int) -> None:
        for p in self.blocks[index].parameters():
            p.fill_(float("nan"))

    def round(self, index: int) -> None:
        pass

    def write(self, index: int, out: Path) -> None:
        state = {n: t.clone() for n, t in self.blocks[index].state_dict().items()}
        write_tensors(out / f"block-{index}.safetensors", state, {})

    def restore(self, done: int, folder: Path) -> None:
        pass

    def state_shape(self, window: int) -> tuple[int, ...]:
        return window, WIDTH

    def inputs(self, index: int, tokens: Tensor) -> Tensor:
        self.embedded += len(tokens)
        return self.embedding[tokens]

    def call(self, index: int, state: Tensor, block: nn.Module | None = None) -> Tensor:
        given: Tensor = (block or self.blocks[index])(state)
        return given

    def after(self, index: int, state: Tensor, tokens: Tensor) -> Tensor:
        return self.call(index, state)

    def head(self, hidden: Tensor) -> Tensor:
        return hidden @ self.embedding.T

    @contextlib.contextmanager
    def fitting(self, low_precision: bool) -> Iterator[None]:
        yield


def tokens(windows: int = 6, window: int = 5) -> Tensor:
    """The same windows every time."""
    return torch.randint(TOKENS, (windows, window), generator=torch.Generator().manual_seed(3))
