"""What is prunable by default, what only by name, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import steppe
from steppe import SteppeError
from steppe.core.prunable import dense_note, prunable, selection


def torch_pruned(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


MAKERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight_norm by hook": weight_norm,
    "spectral_norm by hook": spectral_norm,
    "torch.nn.utils.prune": torch_pruned,
}


def names(model: nn.Module, **patterns: list[str]) -> list[str]:
    return list(prunable(model, **patterns)[1])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("layer", [lambda: nn.Linear(6, 4), lambda: nn.ConvTranspose2d(6, 4, 2)])
def test_a_weight_that_others_make_stays_dense_and_is_named(
    maker: str, layer: Callable[[], nn.Module]
) -> None:
    model = nn.Sequential(MAKERS[maker](layer()), nn.Sequential(nn.Linear(4, 2)))
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    for patterns in ({}, {"exclude": ["0"]}, {"include": ["1*"]}, {"include": ["*"]}):
        assert names(model, **patterns) == ["1.0.weight"]
    (dense,) = selection(model).dense
    assert dense.name == "0.weight"
    assert f"made by {maker.split()[0]}" in dense.why
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers()), "it was computed"
    with pytest.raises(SteppeError, match=r"names only 0\.weight.*Way out: torch\.nn\.utils"):
        prunable(model, ["0"])
    # and the way out works
    exec(dense.way_out, {"torch": torch, "model": model})
    assert names(model) == ["0.weight", "1.0.weight"]


def test_only_weights_that_others_make_are_one_line() -> None:
    with pytest.raises(SteppeError, match=r"beside weight \(Linear, made by weight_norm\)"):
        prunable(parametrizations.weight_norm(nn.Linear(3, 2)))


def test_a_shared_module_that_others_make_is_named_once() -> None:
    layer = parametrizations.weight_norm(nn.Linear(4, 4))
    chosen = selection(nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 2)))
    assert [d.name for d in chosen.dense] == ["0.weight"]
    assert list(chosen.weights) == ["3.weight"]


def test_one_weight_of_a_recurrent_layer_may_be_made_by_others() -> None:
    lstm = parametrizations.weight_norm(nn.LSTM(4, 8), "weight_hh_l0")
    assert names(nn.ModuleDict({"r": lstm})) == ["r.weight_ih_l0"]


KINDS: dict[str, tuple[nn.Module, list[str]]] = {
    "lstm": (
        nn.LSTM(4, 6, bidirectional=True, proj_size=3),
        [f"weight_{part}_l0{way}" for way in ("", "_reverse") for part in ("ih", "hh", "hr")],
    ),
    "gru": (nn.GRU(4, 6, bias=False), ["weight_ih_l0", "weight_hh_l0"]),
    "cell": (nn.RNNCell(4, 6), ["weight_ih", "weight_hh"]),
    "attention": (nn.MultiheadAttention(8, 2), ["in_proj_weight", "out_proj.weight"]),
    "cross attention": (
        nn.MultiheadAttention(8, 2, kdim=4, vdim=6, add_bias_kv=True),
        ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
    ),
    "transposed": (nn.ConvTranspose3d(4, 6, 2, groups=2), ["weight"]),
    "bilinear": (nn.Bilinear(3, 4, 5), ["weight"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_linear_algebra_is_pruned_whatever_the_layer(kind: str) -> None:
    module, expected = KINDS[kind]
    chosen = selection(nn.ModuleDict({"m": module}))
    assert sorted(chosen.weights) == sorted(f"m.{name}" for name in expected)
    assert not chosen.dense
    assert chosen.parameters == sum(p.numel() for p in module.parameters())
    for layer in chosen.layers:
        weight = chosen.weights[layer.name]
        assert layer.shape == tuple(weight.shape)
        assert layer.rows * layer.columns == weight.numel()


class Own(nn.Module):
    """A model with what only ``include`` asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.mix = nn.Parameter(torch.randn(4, 4))
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(4, 3)


def test_what_only_a_name_asks_for() -> None:
    model = Own()
    assert names(model) == ["out.weight"]
    assert {d.name: d.numel for d in selection(model).dense} == {"embed.weight": 40, "mix": 16}
    assert names(model, include=["embed"]) == ["embed.weight"]
    assert names(model, include=["m*", "out"]) == ["mix", "out.weight"]
    assert names(model, include=["token"]) == ["token"]
    # a pattern that matches layers means those
    assert names(model, include=["*"]) == ["out.weight"]
    assert names(model, include=["*", "embed.weight"]) == ["embed.weight", "out.weight"]
    assert names(model, include=["*", "mix"], exclude=["out"]) == ["mix"]
    with pytest.raises(SteppeError, match="'norm'"):
        prunable(model, include=["norm"])


def test_a_tied_embedding_is_named_once_and_pruned_by_either_name() -> None:
    model = Own()
    model.out = nn.Linear(4, 10)
    model.out.weight = model.embed.weight
    model.more = nn.Linear(4, 4)
    assert sorted(d.name for d in selection(model).dense) == ["embed.weight", "mix"]
    assert names(model, include=["out"]) == ["out.weight"]
    assert names(model, include=["embed"]) == ["embed.weight"]
    assert names(model, exclude=["embed"]) == ["more.weight"]


def test_the_note_says_of_what_the_sparsity_is() -> None:
    chosen = selection(Own())
    (note,) = dense_note(chosen.dense, 12, chosen.parameters)
    assert "that of 14.5 % of the model's parameters" in note
    assert "embed.weight (Embedding, 48.2 %), mix (Own, 19.3 %)" in note
    many = nn.ModuleDict({f"e{i}": nn.Embedding(2 + i, 2) for i in range(19)})
    many["out"] = nn.Linear(4, 3)
    (note,) = dense_note(selection(many).dense, 12, 1000)
    assert "e18.weight, e17.weight" in note
    assert "e3.weight and 3 more (Embedding, 41.8 %)" in note


def test_layers_without_outputs_or_inputs_have_nothing_to_prune() -> None:
    model = nn.Sequential(nn.Linear(3, 0), nn.Linear(0, 3), nn.Linear(3, 2))
    assert names(model) == ["2.weight"]
    with pytest.raises(SteppeError, match="something must be prunable"):
        prunable(model, include=["0"])


@pytest.mark.parametrize("lazy", [lambda: nn.LazyLinear(4), lambda: nn.LazyConvTranspose2d(4, 2)])
def test_a_lazy_layer_is_one_line(lazy: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(lazy(), nn.Linear(4, 2))
    with pytest.raises(SteppeError, match=r"0\.weight of a Lazy.*run the model once"):
        prunable(model)
    assert names(model, exclude=["0"]) == ["1.weight"]


def test_what_is_not_floating_point_stays_dense() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    stored = torch.zeros(4, 2, dtype=torch.uint8)
    model[1].weight = nn.Parameter(stored, requires_grad=False)
    assert names(model) == ["0.weight"]
    assert selection(model).dense[0].why == "Linear of torch.uint8"


def test_an_unfinished_sparsify_has_its_own_line_unless_excluded() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steppe.sparsify(model, optimizer, steppe.methods.spred(0.5), 3, include=["0"])
    for patterns in ({}, {"include": ["0"]}, {"include": ["*"]}):
        with pytest.raises(SteppeError, match=r"0\.weight, which an earlier sparsify makes"):
            prunable(model, **patterns)
    assert names(model, exclude=["0"]) == ["1.weight"]
