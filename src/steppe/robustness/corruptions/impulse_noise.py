"""Salt and pepper."""

from __future__ import annotations

import torch
from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws


@corruption(
    "impulse_noise", small=(0.01, 0.02, 0.03, 0.05, 0.07), large=(0.03, 0.06, 0.09, 0.17, 0.27)
)
def impulse_noise(x: Tensor, amount: float, draws: Draws) -> Tensor:
    """Of all values a share of ``amount`` becomes 0 or 1, each as often; channels apart."""
    u = draws.uniform(*x.shape[1:])
    salted = torch.where(u < amount / 2, 1.0, x)
    return salted.masked_fill_((u >= amount / 2) & (u < amount), 0.0)
