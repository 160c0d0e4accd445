"""8-bit Adam: torchao's own bits, bytes of its state, resumed, read by scores."""

import pytest
import torch
from torch import nn

import steppe
from steppe.core.serialization import load_state, save_state
from steppe.engine.optim import optimizer, options_of
from steppe.llm.state_bytes import bytes_of_a_weight

torchao = pytest.importorskip("torchao", reason="torchao is not installed: steppe[adam8bit]")
# quantised in several pieces, in one, and (too small, not divided by blocks) not at all
SHAPES = [(600, 1024), (64, 64), (7, 3), (33, 129)]


def trained(make, steps, again=None):
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    made, draw = make(params), torch.Generator().manual_seed(1)
    for step in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=draw)
        made.step()
        if again is not None and step == 1:
            made = again(params, made)
    return params


def eight(params, **options):
    return optimizer("adam8bit", params, 1e-3, betas=(0.9, 0.95), **options)


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}])
def test_the_bits_of_torchao(options):
    theirs = torchao.optim.Adam8bit
    own = trained(lambda params: eight(params, **options), 3)
    with torch.compiler.set_stance("force_eager"):
        peer = trained(lambda params: theirs(params, 1e-3, betas=(0.9, 0.95), **options), 3)
    plain = trained(lambda params: torch.optim.Adam(params, 1e-3, betas=(0.9, 0.95), **options), 3)
    for a, b, c in zip(own, peer, plain, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, atol=1e-3, rtol=0)


def test_every_code_is_the_nearest():
    from torchao.optim.quant_utils import create_dynamic_map, quantize_8bit_with_qmap

    from steppe.engine.adam8bit import nearest

    ends = torch.tensor([0.0, -0.0, 1.0, 1e-12, 0.5])
    for signed in (True, False):
        numbers = torch.tensor(create_dynamic_map(signed))
        values = torch.cat([numbers, numbers * 1.001, torch.rand(5000) ** 8, ends]).clamp(-1, 1)
        values = torch.cat([values, -values]) if signed else values.abs()
        expected = quantize_8bit_with_qmap(values, numbers)
        assert torch.equal(nearest(values, signed), expected)


def test_saved_without_pickle_it_goes_on_with_the_same_bits(tmp_path):
    def again(params, made):
        save_state(tmp_path / "state.safetensors", made.state_dict())
        fresh = eight(params)
        fresh.load_state_dict(load_state(tmp_path / "state.safetensors"))
        return fresh

    for a, b in zip(trained(eight, 4), trained(eight, 4, again), strict=True):
        assert torch.equal(a, b)


def test_a_class_that_nobody_called_safe_is_not_made(tmp_path, monkeypatch):
    made = eight([nn.Parameter(torch.randn(64, 64))])
    made.param_groups[0]["params"][0].grad = torch.ones(64, 64)
    made.step()
    save_state(tmp_path / "state", made.state_dict())
    monkeypatch.setattr(torch.serialization, "get_safe_globals", list)
    with pytest.raises(steppe.SteppeError, match="OptimState8bit, whose library is not in use"):
        load_state(tmp_path / "state")


def test_two_bytes_of_a_weight_and_a_score_that_reads_them():
    method = steppe.methods.elsa(sparsity=0.5, score="adam_second_moment", objective="task")
    found, _ = bytes_of_a_weight(method, "adam8bit", {})
    assert found == pytest.approx(2 * (1 + 4 / 256), abs=0.05), "and two maps of 256 numbers"
    assert "betas" in options_of("Adam8bit")
    model = nn.Linear(64, 64)
    made = eight(model.parameters())
    sparsifier = steppe.sparsify(model, made, method.replace(coupling={"name": "admm"}), 2)
    for _ in range(2):
        sparsifier.step(lambda: model(torch.eye(64)).square().sum())
    root = made.state[model.weight]["exp_avg_sq"].dequantize().sqrt()
    kept = sparsifier.selector({"weight": model.weight.detach()}, 0.5)["weight"]
    order = (model.weight.detach() * root).abs()
    assert float(order[kept].min()) >= float(order[~kept].max())
