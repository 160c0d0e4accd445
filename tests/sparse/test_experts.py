"""Experts whose weights are stacked: each packed by itself, with the state of the stacks."""

import copy

import pytest
import torch

from looped import looped
from steppe.core.errors import SteppeError
from steppe.sparse.choose import Choice
from steppe.sparse.conversion import in_place
from steppe.sparse.experts import Experts, stacks_of

transformers = pytest.importorskip("transformers", minversion="5.0")


def experts(kind, **more):
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=32,
        intermediate_size=48,
        num_local_experts=4,
        num_experts=4,
        moe_intermediate_size=48,
        num_experts_per_tok=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_hidden_layers=1,
        vocab_size=8,
        pad_token_id=0,
        **more,
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    (module,) = (m for m in model.modules() if type(m).__name__ == f"{kind}Experts")
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=0.3).masked_fill_(torch.rand(p.shape) < 0.8, 0)
    return module


def routed(tokens):
    index = torch.rand(tokens, 4).topk(2).indices
    return torch.randn(tokens, 32), index, torch.rand(tokens, 2)


@pytest.mark.parametrize("kind", ["Mixtral", "Qwen3Moe"])
@looped(tokens=[1, 7])
def test_they_compute_what_the_stacks_do(kind, tokens):
    dense = experts(kind)
    sparse, why = in_place(copy.deepcopy(dense), "bits")
    assert why == "asked for"
    inputs = routed(tokens)
    torch.testing.assert_close(sparse(*inputs), dense(*inputs), atol=1e-5, rtol=1e-5)


def test_a_negative_expert_number_is_refused():
    dense = experts("Mixtral")
    sparse, _ = in_place(copy.deepcopy(dense), "bits")
    x, index, weights = routed(3)
    index[0, 0] = -1
    with pytest.raises(SteppeError, match="numbered from 0; got -1"):
        sparse(x, index, weights)


def test_the_state_is_that_of_the_stacks():
    dense = experts("Mixtral")
    sparse, _ = in_place(copy.deepcopy(dense), "index")
    assert isinstance(sparse, Experts)
    wanted, state = dense.state_dict(), torch.nn.ModuleDict({"m": sparse}).state_dict()
    assert {k: v.tolist() for k, v in state.items()} == {
        f"m.{k}": v.tolist() for k, v in wanted.items()
    }
    assert torch.equal(sparse.down_proj, dense.down_proj), "for code that reads it"
    other = experts("Mixtral")
    outer = torch.nn.ModuleDict({"m": sparse})
    outer.load_state_dict({f"m.{k}": v for k, v in other.state_dict().items()})
    inputs = routed(5)
    torch.testing.assert_close(sparse(*inputs), other(*inputs), atol=1e-5, rtol=1e-5)
    half = copy.deepcopy(sparse).to(torch.bfloat16)
    assert torch.equal(half.gate_up_proj, other.gate_up_proj.bfloat16())
    with pytest.raises(RuntimeError, match="Missing key"):
        outer.load_state_dict({})
    assert "experts=4, formats=['index']" in repr(sparse)


def test_an_expert_number_that_is_too_large_is_none():
    dense = experts("Mixtral")
    sparse, _ = in_place(copy.deepcopy(dense), "bits")
    x, index, weights = routed(3)
    index[1] = 4
    assert not sparse(x, index, weights)[1].any()


def test_biases_are_more_than_is_known():
    assert stacks_of(experts("GptOss")) == []
    assert stacks_of(experts("Mixtral")) == ["gate_up_proj", "down_proj"]


def test_experts_that_would_be_larger_stay():
    dense = experts("Mixtral")
    with torch.no_grad():
        dense.down_proj[2] = torch.rand(32, 48) + 0.1
    layer, why = in_place(dense, "index")
    assert layer is None
    assert why.startswith("an expert of down_proj: index would take")


@looped(transposed=[False, True])
def test_each_expert_has_the_format_that_was_chosen_for_it(transposed):
    dense = experts("Mixtral")
    with torch.no_grad():
        dense.down_proj[2] = torch.rand(32, 48) + 0.1
    other = copy.deepcopy(dense)
    if transposed:
        other.is_transposed = True
        for name in stacks_of(dense):
            stack = torch.nn.Parameter(getattr(dense, name).detach().mT.contiguous())
            setattr(other, name, stack)

    def choose(question):
        return Choice(format="bits" if question.sparsity > 0.5 else "dense", why="chosen")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("steppe.sparse.conversion.choose", choose)
        sparse, _ = in_place(copy.deepcopy(other), "auto")
    assert "formats=['bits', 'dense']" in repr(sparse)
    inputs = routed(6)
    torch.testing.assert_close(sparse(*inputs), dense(*inputs), atol=1e-5, rtol=1e-5)
    state = sparse.state_dict()
    assert all(torch.equal(state[name], p) for name, p in other.state_dict().items())
