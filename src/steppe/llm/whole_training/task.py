"""The task of a causal language model: each next token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steppe.core.next_token import next_token_loss


@dataclass(frozen=True, kw_only=True)
class CausalLM:
    """Trained on the next token; weights in float32, products in another type if one is given.

    Args:
        stored: parameter -> the type that its file holds.
        autocast: the type of the products (bfloat16); None for float32.
    """

    stored: Callable[[str], torch.dtype]
    autocast: torch.dtype | None = None
    unit = "tokens"
    records_pace = True
    period = "part"
    quality = "perplexity"

    def count(self, inputs: Tensor) -> int:
        return inputs.numel()

    def forward(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Logits ``[batch, tokens, vocabulary]`` of ids."""
        kind, low = inputs.device.type, self.autocast
        with torch.autocast(kind, low or torch.bfloat16, enabled=low is not None):
            logits = model(input_ids=inputs, use_cache=False).logits
        assert isinstance(logits, Tensor)
        return logits

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return next_token_loss(outputs, targets)

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The share of next tokens that are the most likely one."""
        return (outputs.detach()[:, :-1].argmax(-1) == targets[:, 1:]).float().mean()

    @torch.no_grad()
    def settle(self, model: nn.Module) -> None:
        """Round to what the files hold, so that what is measured is what is loaded."""
        for name, p in model.named_parameters():
            kind = self.stored(name)
            if kind != p.dtype:
                p.copy_(p.to(kind))
