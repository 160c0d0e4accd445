"""How large inputs are, whatever reads them."""

from __future__ import annotations

import torch

from steppe.score.activation_norm import ActivationNorm


def test_units_rank_by_the_norm_of_their_activation_alone() -> None:
    x, weight = torch.randn(50, 6) * torch.tensor([3.0, 1.0, 5.0, 2.0, 6.0, 4.0]), torch.randn(4, 6)
    score = ActivationNorm()
    saliency = score.score(weight, {"activation_square": x.square().mean(0, keepdim=True)}, "w")
    assert saliency.shape == weight.shape
    units = score.reduce(saliency.T)
    torch.testing.assert_close(units, x.norm(dim=0) * (4 / 50) ** 0.5)
