"""Which 2:4 layers are used sparse: decided by times; on a CPU it is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.llm.export import export
from steppe.llm.semi_structured import (
    PLAN,
    Hardware,
    hardware,
    is_two_four,
    load_semi_structured,
    measure,
    parse_tokens,
    plan,
    write_plan,
)

transformers = pytest.importorskip("transformers")
GPU = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


class Fake:
    """Hardware whose times are given; it remembers what it converted."""

    def __init__(self, *times: float, damage: float = 0.0) -> None:
        self.times, self.damage = list(times), damage
        self.converted: list[Tensor] = []

    def hardware(self, name: str = "fake") -> Hardware:
        return Hardware(
            name=name, device=torch.device("cpu"), convert=self.convert, turns=self.turns
        )

    def convert(self, weight: Tensor) -> Tensor:
        self.converted.append(weight)
        return weight + self.damage

    def turns(
        self, dense: Callable[[], Any], sparse: Callable[[], Any]
    ) -> list[tuple[float, float]]:
        """The next two of the times, or the last one, in every turn."""
        pair = []
        for call in (dense, sparse):
            call()
            pair.append(self.times.pop(0) if len(self.times) > 1 else self.times[0])
        return [(pair[0], pair[1])] * 25


def two_four(weight: Tensor) -> Tensor:
    quads = weight.reshape(-1, 4)
    drop = quads.abs().argsort(1)[:, :2]
    return quads.scatter(1, drop, 0).reshape(weight.shape)


def linear(dtype: torch.dtype = torch.bfloat16, bias: bool = True) -> nn.Linear:
    module = nn.Linear(32, 16, bias=bias).to(dtype)
    with torch.no_grad():
        module.weight.copy_(two_four(module.weight))
    return module


def write_run(folder: Path, pattern: bool = True) -> None:
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if pattern and "mlp" in name:
                weight.copy_(two_four(weight))
    model.save_pretrained(folder)


def test_the_pattern() -> None:
    assert is_two_four(two_four(torch.randn(16, 32)))
    assert is_two_four(torch.zeros(4, 8))
    assert not is_two_four(torch.randn(16, 32))
    assert not is_two_four(torch.zeros(4, 6)), "inputs divide by 4"
    assert not is_two_four(torch.zeros(2, 4, 4))
    # two of eight is not enough when three are neighbours
    assert not is_two_four(torch.tensor([[1.0, 1, 1, 0, 0, 0, 0, 0]]))


@pytest.mark.parametrize(
    ("times", "keep", "reason"),
    [
        ((2.0, 1.0, 3.0, 1.0), True, "faster"),
        ((2.0, 1.0, 3.0, 3.1), False, "not faster with 64 tokens"),
        ((1.0, 1.0, 3.0, 1.0), False, "not faster with 1 tokens"),
        ((1.04, 1.0, 3.0, 1.0), False, "not faster with 1 tokens"),
    ],
)
def test_a_layer_is_sparse_when_faster_at_every_number_of_tokens(
    times: tuple[float, ...], keep: bool, reason: str
) -> None:
    module = linear()
    fake = Fake(*times)
    found = measure("l", module, module.weight, [1, 64], fake.hardware())
    assert (found.keep, found.reason) == (keep, reason)
    assert found.dense_ms + found.sparse_ms == (*times[::2], *times[1::2])
    assert found.low[0] == times[0] / times[1]
    assert torch.equal(fake.converted[0], module.weight)


def test_turns_that_a_loaded_gpu_makes_look_faster_are_no_gain() -> None:
    module, draw = linear(), random.Random(0)

    def turns(dense: Callable[[], Any], sparse: Callable[[], Any]) -> list[tuple[float, float]]:
        noisy = [(draw.choice((1.0, 16.0)), draw.choice((1.0, 16.0))) for _ in range(25)]
        return [*noisy, (16.0, 1.0), (16.0, 1.0)]

    gpu = Hardware(name="f", device=torch.device("cpu"), convert=lambda w: w, turns=turns)
    found = measure("l", module, module.weight, [1], gpu)
    assert (found.keep, found.reason) == (False, "not faster with 1 tokens")


def test_what_is_not_measured_says_why() -> None:
    fake = Fake(1.0)
    for module, reason in (
        (nn.Linear(32, 16), "not 2:4"),
        (linear(torch.float32), "float32 is not half precision"),
        (nn.Embedding(4, 4), "Embedding is not a Linear"),
    ):
        found = measure("l", module, module.weight, [1], fake.hardware())
        assert (found.keep, found.reason) == (False, reason)
    assert not fake.converted
    module = linear()
    found = measure("l", module, module.weight, [1], Fake(2.0, 1.0, damage=1.0).hardware())
    assert (found.keep, found.reason) == (False, "the sparse kernel's outputs differ")

    def cannot(weight: Tensor) -> Tensor:
        raise RuntimeError("shape (16, 32) is not supported\nmore")

    gpu = Hardware(
        name="f", device=torch.device("cpu"), convert=cannot, turns=lambda a, b: [(2.0, 1.0)]
    )
    assert "torch cannot: shape (16, 32)" in measure("l", module, module.weight, [1], gpu).reason


def test_a_model_with_no_two_four_layer_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with pytest.raises(SteppeError, match=r"some layer must be 2:4.*0\.weight, 1\.weight"):
        plan(model, [1], Fake(1.0).hardware())


def test_export_and_load(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    fake = Fake(2.0, 1.0, 2.0, 1.0, 1.0, 2.0)  # down, gate faster; up slower
    done = write_plan(tmp_path / "run", tmp_path / "out", [8], fake.hardware())
    assert done.record["layers_sparse"] == 2
    assert len(done.record["not_two_four"]) == 4
    assert any("not 2:4: model.layers.0.self_attn.k_proj.weight" in line for line in done.lines)
    held = json.loads((tmp_path / "out" / PLAN).read_text())
    kept = [layer["name"] for layer in held["layers"] if layer["keep"]]
    assert kept == [f"model.layers.0.mlp.{n}_proj.weight" for n in ("down", "gate")]
    before, after = (tmp_path / f / "model.safetensors" for f in ("run", "out"))
    assert before.read_bytes() == after.read_bytes()
    loader = Fake(1.0, damage=0.0)
    model = load_semi_structured(tmp_path / "out", gpu=loader.hardware())
    assert len(loader.converted) == 2
    assert not model.model.layers[0].mlp.gate_proj.weight.requires_grad
    tokens = torch.arange(8)[None]
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, plain(tokens).logits)
    with pytest.raises(SteppeError, match="kind of GPU"):
        load_semi_structured(tmp_path / "out", gpu=loader.hardware("other"))
    with pytest.raises(SteppeError, match="measuring them first"):
        load_semi_structured(tmp_path / "run", gpu=loader.hardware())


def test_no_gain_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    done = write_plan(tmp_path / "run", tmp_path / "out", [1], Fake(1.0).hardware())
    assert done.record["layers_sparse"] == 0
    assert any("nothing is gained" in line for line in done.lines)


@pytest.mark.parametrize("device", ["cpu", "cuda:99", "mps", "gpu"])
def test_a_device_without_the_kernels_is_refused(tmp_path: Path, device: str) -> None:
    write_run(tmp_path / "run")
    with pytest.raises(SteppeError, match="Way out"):
        hardware(device)
    with pytest.raises(SteppeError, match=r"device|kernels"):
        export(tmp_path / "run", "2:4", tmp_path / "out", device=device)
    assert not (tmp_path / "out").exists()


def test_tokens() -> None:
    for wrong in ("", "1,,2", "0", "-1", "many"):
        with pytest.raises(SteppeError, match="whole numbers"):
            parse_tokens(wrong)


@pytest.mark.cuda
@pytest.mark.skipif(not GPU, reason="needs a GPU of compute capability 8.0 or more")
def test_on_a_gpu_the_kernels_agree_with_the_dense_model(tmp_path: Path) -> None:
    gpu = hardware("cuda")
    module = nn.Linear(1024, 1024).to(torch.float16)
    with torch.no_grad():
        module.weight.copy_(two_four(module.weight))
    found = measure("l", module, module.weight, [1, 64, 1024], gpu)
    assert found.dense_ms, found.reason
    assert all(t > 0 for t in found.dense_ms + found.sparse_ms)
    assert found.difference <= 2**-8
    # so small a model is not faster, but given such times its layers must still be used rightly
    write_run(tmp_path / "run")
    faster = Fake(*[2.0, 1.0] * 3).turns
    forced = Hardware(name=gpu.name, device=gpu.device, convert=gpu.convert, turns=faster)
    done = write_plan(tmp_path / "run", tmp_path / "out", [64], forced)
    assert done.record["layers_sparse"] == 3, done.lines
    model = load_semi_structured(tmp_path / "out")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").cuda().eval()
    tokens = torch.arange(64, device="cuda")[None]
    with torch.no_grad():
        ours, theirs = model(tokens).logits, plain(tokens).logits
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02 * float(theirs.abs().max()))
