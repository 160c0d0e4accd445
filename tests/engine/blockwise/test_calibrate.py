"""The inputs of products, whatever module computes them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from steppe import methods
from steppe.core.layer import Layer
from steppe.engine.blockwise.calibration_collector import CalibrationCollector
from steppe.engine.blockwise.config import BlockwiseConfig, ReconstructionConfig
from steppe.engine.blockwise.input_recorder import InputRecorder
from steppe.engine.blockwise.walk import Blockwise

CPU = torch.device("cpu")


def watched(weights: dict[str, Tensor]) -> tuple[InputRecorder, list[tuple[str, Tensor]]]:
    seen: list[tuple[str, Tensor]] = []
    return InputRecorder(weights, lambda name, x: seen.append((name, x))), seen


def flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


def test_a_linear_layer() -> None:
    layer, x = nn.Linear(4, 3), torch.randn(2, 5, 4)
    watch, seen = watched({"w": layer.weight.detach()})
    with watch:
        out = layer(x)
    assert torch.equal(out, layer(x)), "the product itself is as it was"
    assert [name for name, _ in seen] == ["w"]
    assert torch.equal(seen[0][1], x)
    layer(x)
    assert len(seen) == 1, "only while it watches"


def test_a_pass_ends_with_the_last_inputs() -> None:
    one, two, done = nn.Linear(4, 4), nn.Linear(4, 4), []
    watch, seen = watched({"one": one.weight.detach(), "two": two.weight.detach()})
    x = torch.randn(3, 4)
    with watch:
        for _ in range(3):
            watch.through(lambda: done.append(two(one(x))))
        assert [name for name, _ in seen] == ["one", "two"] * 3
        assert torch.equal(seen[1][1], seen[3][1])
        assert len(done) == 1, "only the first pass goes to its end"
        assert torch.equal(two(one(x)), done[0]), "outside of it nothing stops"


@pytest.mark.parametrize("uses", [["one"], ["one", "two", "one"]])
def test_weights_not_used_exactly_once_end_no_pass(uses: list[str]) -> None:
    layers, done = {"one": nn.Linear(4, 4), "two": nn.Linear(4, 4)}, []
    watch, seen = watched({name: layer.weight.detach() for name, layer in layers.items()})

    def call() -> None:
        x = torch.randn(3, 4)
        for name in uses:
            x = layers[name](x)
        done.append(x)

    with watch:
        for _ in range(3):
            watch.through(call)
    assert len(done) == 3
    assert [name for name, _ in seen] == uses * 3


def test_a_conv1d(toy: ModuleType) -> None:
    layer, x = toy.Conv1D(3, 4), torch.randn(2, 5, 4)
    watch, seen = watched({"w": layer.weight.detach()})
    with watch:
        layer(x)
    ((name, found),) = seen
    assert name == "w"
    assert torch.equal(flat(found), flat(x))


@pytest.mark.parametrize(
    "product",
    [
        lambda x, w: F.linear(x, w),
        lambda x, w: x @ w.t(),
        lambda x, w: torch.matmul(x, w.t()),
        lambda x, w: torch.mm(x, w.t()),
        lambda x, w: x.matmul(w.t()),
        lambda x, w: torch.addmm(torch.zeros(3), x, w.t()),
    ],
    ids=["linear", "@", "matmul", "mm", "method", "addmm"],
)
def test_products_by_hand(product: Any) -> None:
    weight, x = torch.randn(3, 4), torch.randn(7, 4)
    watch, seen = watched({"w": weight})
    with watch:
        product(x, weight)
    ((_, found),) = seen
    assert torch.equal(found, x)


def test_experts_apart(toy: ModuleType) -> None:
    experts, x = toy.Experts(4), torch.randn(2, 30, toy.WIDTH)
    parts = {f"up.{i}": w for i, w in enumerate(experts.up.detach())}
    parts |= {f"down.{i}": w for i, w in enumerate(experts.down.detach())}
    watch, seen = watched(parts)
    with watch:
        experts(x)
    rows, chosen = flat(x), (flat(x) @ experts.route).argmax(-1)
    ups = {name: found for name, found in seen if name.startswith("up")}
    assert set(ups) == {f"up.{int(i)}" for i in chosen.unique()}
    for name, found in ups.items():
        i = int(name[-1])
        assert torch.equal(found, rows[chosen == i])
        hidden = F.relu(found @ experts.up[i].t())
        torch.testing.assert_close(dict(seen)[f"down.{i}"], hidden)


def collected(
    toy: ModuleType, kind: str, windows: list[Tensor]
) -> tuple[CalibrationCollector, Any]:
    row = toy.Row(1, kind)
    parameters = dict(row.blocks[0].named_parameters())
    layers, weights = {}, {}
    for layer in row.layers():
        weight = parameters[layer.name.removeprefix("blocks.0.")].detach()
        parts = list(weight) if layer.stacked else [weight]
        layers |= {p.name: p for p in layer.split()}
        weights |= {p.name: w for p, w in zip(layer.split(), parts, strict=True)}
    collector = CalibrationCollector(layers, ["gram", "activation_square"], CPU)
    with InputRecorder(weights, collector.see):
        for window in windows:
            row.blocks[0](row.embedding[window])
    collector.finish()
    return collector, row


@pytest.mark.parametrize("kind", ["plain", "conv1d", "experts"])
def test_statistics_by_brute_force(kind: str, toy: ModuleType) -> None:
    tokens = toy.tokens()
    collector, row = collected(toy, kind, [tokens[:1], tokens[1:4], tokens[4:]])
    block, hidden = row.blocks[0], row.embedding[tokens]
    inner = block.norm(hidden)
    after = hidden + block.attention(inner)[0]
    expected = {f"attention.{n}.weight": inner for n in "qkv"}
    if kind == "experts":
        rows = flat(after)
        chosen = (rows @ block.feed_forward.route).argmax(-1)
        expected |= {
            f"feed_forward.up.{i}": rows[chosen == i] for i in range(3) if (chosen == i).any()
        }
    else:
        expected["feed_forward.0.weight"] = after
        expected["feed_forward.2.weight"] = block.feed_forward[1](block.feed_forward[0](after))
    assert len(expected) >= 5
    for name, x in expected.items():
        x = flat(x).double()
        gram = (x.t() @ x / len(x)).float()
        found = collector.of(f"blocks.0.{name}")
        torch.testing.assert_close(found["gram"], gram, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            found["activation_square"], gram.diagonal()[None], rtol=1e-4, atol=1e-5
        )


def test_layers_with_one_input_share_its_statistics(toy: ModuleType) -> None:
    tokens = toy.tokens()
    collector, _ = collected(toy, "plain", [tokens[:2], tokens[2:]])
    q, k, v, o = (collector.of(f"blocks.0.attention.{n}.weight")["gram"] for n in "qkvo")
    assert q is k
    assert q is v
    assert q is not o


def test_layers_that_no_token_reached(toy: ModuleType) -> None:
    collector, _ = collected(toy, "experts", [toy.tokens()])
    assert set(collector.unused()) >= {"blocks.0.feed_forward.up.3", "blocks.0.feed_forward.down.3"}
    assert not [n for n in collector.unused() if "attention" in n]
    for name in collector.unused():
        assert bool(collector.of(name)["gram"].isfinite().all())


def test_what_is_not_watched_is_not_seen() -> None:
    weight, other = torch.randn(3, 4), torch.randn(3, 4)
    watch, seen = watched({"w": weight})
    with watch:
        F.linear(torch.randn(2, 4), other)
        F.linear(torch.randn(2, 4), torch.empty(3, 4, device="meta").new_zeros(3, 4, device="cpu"))
    assert not seen


def test_equal_values_in_two_tensors_are_two_inputs() -> None:
    layers = {n: Layer(n, (3, 4)) for n in "ab"}
    collector = CalibrationCollector(layers, ["gram"], CPU)
    x = torch.randn(5, 4)
    collector.see("a", x)
    collector.see("b", x.clone())
    collector.finish()
    assert collector.of("a")["gram"] is not collector.of("b")["gram"]
    assert torch.equal(collector.of("a")["gram"], collector.of("b")["gram"])


@pytest.mark.parametrize(
    "product",
    [lambda x, w: w @ x.t(), lambda x, w: torch.stack([w @ row for row in x])],
    ids=["matrix", "rows"],
)
def test_weights_on_the_left(product: Any) -> None:
    weight, x = torch.randn(3, 4), torch.randn(7, 4)
    watch, seen = watched({"w": weight})
    with watch:
        product(x, weight)
    assert torch.equal(torch.cat([flat(found) for _, found in seen]), x)


def test_layers_that_no_token_reached_have_inputs_of_equal_size() -> None:
    layers = {name: Layer(name, (3, 4)) for name in "ab"}
    held = CalibrationCollector(layers, ["gram", "activation_square"], CPU)
    held.see("b", torch.randn(5, 4))
    held.finish()
    assert held.unused() == ["a"]
    gram = held.of("a")["gram"]
    assert torch.equal(gram, torch.eye(4) * gram[0, 0])
    assert gram[0, 0] > 0
    assert torch.equal(held.of("a")["activation_square"][0], gram.diagonal())


class Depthwise(nn.Module):
    """A convolution that is called by itself, as state-space blocks do, between two products."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12, bias=False), nn.Linear(12, 8, bias=False)
        self.conv1d = nn.Conv1d(12, 12, 4, groups=12, bias=False)

    def forward(self, hidden: Tensor, scale: float = 1.0) -> Tensor:
        x = self.up(hidden).transpose(1, 2)
        weight = self.conv1d.weight.squeeze(1)
        x = F.conv1d(x, weight=weight.unsqueeze(1), padding=3, groups=12)[..., : x.shape[-1]]
        return hidden + self.down(x.transpose(1, 2))


@pytest.mark.parametrize("name", ["wanda", "sparsegpt", "alps", "safe_plus"])
def test_convolutions_that_are_called_by_themselves(
    name: str, toy: ModuleType, tmp_path: Path
) -> None:
    row = toy.Row()
    row.blocks = row.model.blocks = nn.ModuleList(Depthwise() for _ in range(2))
    row.model.requires_grad_(False)
    row.held = [{n: t.clone() for n, t in b.state_dict().items()} for b in row.blocks]
    method = methods.for_language(getattr(methods, name)(sparsity=0.5))
    fit = ReconstructionConfig(epochs=1, warmup_epochs=0, batch_size=3)
    config = BlockwiseConfig(micro_batch=2, reconstruction=fit)
    walk = Blockwise(row, method, config, toy.tokens(), tmp_path)
    rows = walk.run()
    assert not any("no calibration token" in note for note in walk.notes)
    layers = {x["name"]: x for block in rows for x in block["layers"]}
    conv = layers["blocks.0.conv1d.weight"]
    # the error of what is computed, on the inputs that the convolution has
    written = load_file(tmp_path / "block-0.safetensors")
    x = (row.embedding[toy.tokens()] @ written["up.weight"].t()).transpose(1, 2)
    old, new = (
        F.conv1d(x, w["conv1d.weight"], padding=3, groups=12) for w in (row.held[0], written)
    )
    assert conv["output_error"] == pytest.approx(
        float((new - old).square().sum() / old.square().sum()), rel=1e-4
    )
    if name == "wanda":  # each channel by the size of its own inputs
        dense = (row.embedding[toy.tokens()] @ row.held[0]["up.weight"].t()).transpose(1, 2)
        unfold = F.pad(dense, (3, 3)).unfold(2, 4, 1).square().mean((0, 2)).sqrt()
        saliency = row.held[0]["conv1d.weight"][:, 0].abs() * unfold
        kept = saliency.argsort(1)[:, 2:]
        mask = torch.zeros_like(saliency, dtype=torch.bool).scatter_(1, kept, True)
        assert torch.equal(written["conv1d.weight"][:, 0] != 0, mask)


@pytest.mark.parametrize("name", ["sparsegpt", "safe", "wanda"])
def test_fewer_tokens_than_inputs_are_noted_once(
    name: str, toy: ModuleType, tmp_path: Path
) -> None:
    """A solver fits them exactly: an error of 0.0000 would be taken for a perfect pruning."""

    def notes(tokens: Tensor, out: Path) -> list[str]:
        method = methods.for_language(methods.make(name, sparsity=0.5))
        fit = ReconstructionConfig(epochs=1, warmup_epochs=0, batch_size=3)
        config = BlockwiseConfig(micro_batch=2, reconstruction=fit)
        walk = Blockwise(toy.Row(), method, config, tokens, out)
        walk.run()
        return [note for note in walk.notes if "calibration tokens are fewer" in note]

    few = notes(toy.tokens(2, 5), tmp_path / "few")
    assert len(few) == (name != "wanda")  # which fits nothing
    assert all("10 calibration tokens are fewer than its 12 inputs" in note for note in few)
    assert not notes(toy.tokens(), tmp_path / "enough")
