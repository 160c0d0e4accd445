"""Adapters merged under masks: the formula, the zeros, the refusal of the other way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.engine.mask_keeper import MaskKeeper
from steppe.llm.lora import mask_adapters, merge_lora

peft = pytest.importorskip("peft", reason="merging adapters is tested with peft: steppe[finetune]")
transformers = pytest.importorskip("transformers")


def tiny(pruned: bool = True) -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = transformers.LlamaForCausalLM(config)
    if pruned:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "proj" in name:
                    weight.mul_(torch.rand_like(weight) > 0.5)
    return model


def adapted(model: nn.Module, **options: object) -> nn.Module:
    config = peft.LoraConfig(
        **{"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"]} | options
    )
    model = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_()
    return model


@pytest.mark.parametrize("when", ["before", "after", "never"])
def test_merged_is_w_plus_mask_times_ba(when: str) -> None:
    plain = tiny()
    dense = plain.state_dict()["model.layers.0.self_attn.k_proj.weight"].clone()
    keeper = MaskKeeper(plain) if when == "before" else None
    model = adapted(plain)
    if when == "after":
        keeper = MaskKeeper(model)
    expected = {}
    for name, module in plain.named_modules():
        if hasattr(module, "lora_A"):
            w = module.base_layer.weight.detach().clone()
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            expected[f"{name}.weight"] = w + (w != 0) * ((b @ a) * module.scaling["default"])
    assert len(expected) == 4
    before = MaskKeeper(plain).sparsity()
    merged = merge_lora(model, keeper)
    held = dict(merged.named_parameters())
    assert not any("lora" in name for name in held)
    for name, weight in expected.items():
        assert torch.equal(held[name], weight)
    assert torch.equal(held["model.layers.0.self_attn.k_proj.weight"], dense)
    assert MaskKeeper(merged).sparsity() == before


def test_unmasked_merges_are_refused() -> None:
    for guarded_by in ("keeper", "guard"):
        plain = tiny()
        keeper = MaskKeeper(plain)
        model = adapted(plain)
        if guarded_by == "keeper":
            keeper = MaskKeeper(model)
        else:
            keeper.guard(model)
        for call in (model.merge_and_unload, model.base_model.merge_adapter, model.merge_adapter):
            with pytest.raises(SteppeError, match="merge_lora"):
                call()
        keeper.check()
        merge_lora(model, keeper)
        keeper.check()


def test_unguarded_it_would_have_filled_the_zeros() -> None:
    plain = tiny()
    keeper = MaskKeeper(plain)
    adapted(plain).merge_and_unload()
    with pytest.raises(SteppeError, match="masked weights must be zero"):
        keeper.check()


def test_new_adapters_are_not_kept_at_zero() -> None:
    model = peft.get_peft_model(tiny(), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    assert not any("lora" in name for name in MaskKeeper(model).masks)
    assert "model.layers.0.self_attn.q_proj.weight" in MaskKeeper(model).masks


def test_training_adapters_then_merging() -> None:
    model = adapted(tiny())
    keeper = MaskKeeper(model)
    optimizer = keeper.wrap(torch.optim.AdamW([p for p in model.parameters() if p.requires_grad]))
    tokens = torch.randint(0, 64, (2, 8))
    with torch.no_grad():
        before = model(input_ids=tokens).logits
    for _ in range(2):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    keeper.check()
    merged = merge_lora(model, keeper)
    keeper.check()
    with torch.no_grad():
        logits = merged(input_ids=tokens).logits
    assert logits.shape == (2, 8, 64)
    assert logits.isfinite().all()
    assert not torch.equal(logits, before), "the adapters learned nothing"


@pytest.mark.parametrize("bias", [False, True])
def test_masked_adapters_compute_what_is_merged(bias: bool) -> None:
    plain = tiny()
    keeper = MaskKeeper(plain)
    tokens = torch.randint(0, 64, (2, 8))
    base = plain.eval()(tokens).logits
    model = adapted(plain).eval()
    if bias:
        # peft's lora_bias asks for layers that have one
        layer = plain.model.layers[0].self_attn.q_proj
        layer.lora_B["default"].bias = nn.Parameter(torch.randn(16))
        layer.base_layer.bias = nn.Parameter(torch.randn(16))
        layer.lora_bias["default"] = True
        with model.disable_adapter():
            base = model(tokens).logits
    unmasked = model(tokens).logits
    assert len(mask_adapters(model, keeper)) == 4
    masked = model(tokens).logits
    with model.disable_adapter():
        assert torch.equal(model(tokens).logits, base)
    masked.sum().backward()
    grads = [p.grad for n, p in model.named_parameters() if "lora_" in n]
    assert all(g is not None and g.count_nonzero() for g in grads)
    merged = merge_lora(model, keeper)(tokens).logits
    # one product instead of two: only the order of sums differs
    torch.testing.assert_close(merged, masked, rtol=1e-4, atol=1e-5)
    assert (merged - unmasked).abs().max() > 0.01


def test_adapters_that_cannot_be_masked_are_refused() -> None:
    plain = tiny()
    keeper = MaskKeeper(plain)
    with pytest.raises(SteppeError, match="adapters of kept weights"):
        mask_adapters(plain, keeper)
    with pytest.raises(SteppeError, match="plain LoRA"):
        mask_adapters(adapted(plain, use_dora=True), keeper)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_what_else_an_adapter_does_survives(options: dict[str, object]) -> None:
    model = adapted(tiny(), **options)
    if "modules_to_save" in options:
        with torch.no_grad():
            model.base_model.model.lm_head.modules_to_save["default"].weight.fill_(2.0)
    merged = merge_lora(model)
    if "modules_to_save" in options:
        assert (merged.lm_head.weight == 2).all()
    assert MaskKeeper(merged).sparsity() > 0.4


def test_nothing_to_merge_and_twice_merged() -> None:
    with pytest.raises(SteppeError, match="there must be adapters"):
        merge_lora(tiny())
    model = adapted(tiny())
    model.merge_adapter()
    with pytest.raises(SteppeError, match="merged already"):
        merge_lora(model, None)


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(vocab_size=48, n_embd=16, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".h." in name and weight.ndim == 2:
                weight.mul_(torch.rand_like(weight) > 0.5)
    return model


TOKENS = torch.arange(64).reshape(4, 16) % 48


def trained(model: nn.Module, keeper: MaskKeeper) -> torch.Tensor:
    """A few steps; the logits afterwards."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = keeper.wrap(torch.optim.AdamW(weights, lr=0.05))
    for _ in range(3):
        optimizer.zero_grad()
        model.train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits


SAVED = {
    "a pruned layer": ["up_proj"],
    "a pruned part": ["self_attn"],
    "the head": ["lm_head"],
    "all of them": ["up_proj", "embed_tokens", "lm_head"],
}


@pytest.mark.parametrize("title", SAVED)
@pytest.mark.parametrize("folder", [True, False])
def test_modules_that_are_saved_keep_their_zeros(title: str, folder: bool) -> None:
    target = ["down_proj"] if title == "a pruned part" else ["q_proj"]
    plain = tiny()
    masks = {n: w != 0 for n, w in plain.named_parameters() if "proj" in n} if folder else None
    model = peft.get_peft_model(
        plain, peft.LoraConfig(r=2, target_modules=target, modules_to_save=SAVED[title])
    )
    keeper = MaskKeeper(model, masks)
    assert not any("modules_to_save" in n or "original_module" in n for n in keeper.masks)
    share = keeper.sparsity()
    mask_adapters(model, keeper)
    logits = trained(model, keeper)
    merged = merge_lora(model, keeper)
    assert keeper.sparsity() == MaskKeeper(merged).sparsity() == share
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=TOKENS).logits, logits)


def test_transposed_layers_are_masked_while_they_are_trained() -> None:
    model = peft.get_peft_model(
        gpt2(), peft.LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    )
    keeper = MaskKeeper(model)
    assert len(mask_adapters(model, keeper)) == 4
    logits = trained(model, keeper)
    merged = merge_lora(model, keeper)
    with torch.no_grad():
        torch.testing.assert_close(merged(input_ids=TOKENS).logits, logits)


def test_the_way_out_for_other_adapters_is_one() -> None:
    options = {"r": 2, "target_modules": ["q_proj"], "use_dora": True}
    model = peft.get_peft_model(tiny(), peft.LoraConfig(**options))
    keeper = MaskKeeper(model)
    with pytest.raises(SteppeError, match=r"Dora.* around Linear .*use_dora=False.*merge_lora"):
        mask_adapters(model, keeper)
    trained(model, keeper)
    share = keeper.sparsity()
    merged = merge_lora(model, keeper)
    assert MaskKeeper(merged).sparsity() == share
    plain = peft.get_peft_model(tiny(), peft.LoraConfig(**options | {"use_dora": False}))
    assert mask_adapters(plain, MaskKeeper(plain))
