"""Weights that are made from others are found without being made."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm

from steppe.core.derived import OfSparsify, derived_weights, is_part


def test_finding_moves_no_buffer() -> None:
    layer = parametrizations.spectral_norm(nn.Linear(6, 4))
    before = {n: b.clone() for n, b in layer.named_buffers()}
    assert derived_weights(layer)["weight"].shape == (4, 6)
    assert all(torch.equal(b, before[n]) for n, b in layer.named_buffers())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_each_tensor_of_a_module_on_its_own() -> None:
    layer = spectral_norm(nn.Linear(6, 4))
    prune.random_unstructured(layer, "bias", 0.5)
    made = derived_weights(layer)
    assert {n: d.maker for n, d in made.items()} == {
        "weight": "spectral_norm",
        "bias": "torch.nn.utils.prune",
    }
    assert all(is_part(name, made) for name in layer._parameters)


def test_what_an_unfinished_sparsify_makes_is_known() -> None:
    class Twice(OfSparsify):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    layer = nn.Linear(3, 2)
    parametrize.register_parametrization(layer, "weight", Twice())
    assert derived_weights(layer)["weight"].of_sparsify
    assert not derived_weights(nn.Linear(3, 2))
