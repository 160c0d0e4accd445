"""A real Trainer on a real small Llama: zeros, momentum, checkpoints, resuming."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.engine.mask_keeper import MaskKeeper, read_masks

transformers = pytest.importorskip("transformers")


def tiny() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.mul_(torch.rand_like(weight) > 0.5)
    return model


def trainer(model: nn.Module, out: Path, *callbacks: Any, steps: int = 4, **options: Any) -> Any:
    torch.manual_seed(1)
    tokens = torch.randint(0, 64, (16, 8))
    args = transformers.TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        logging_steps=1,
        save_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    data = [{"input_ids": row, "labels": row} for row in tokens]
    return transformers.Trainer(model, args, train_dataset=data, callbacks=list(callbacks))


def callback(*given: Any, **named: Any) -> Any:
    from steppe.callbacks import MaskCallback

    return MaskCallback(*given, **named)


def test_zeros_and_momentum_stay_through_a_run(tmp_path: Path) -> None:
    model = tiny()
    masks = {n: w.detach() != 0 for n, w in model.named_parameters() if "proj" in n}
    run = trainer(model, tmp_path, callback())
    run.train()
    inner = run.optimizer.optimizer
    held = dict(model.named_parameters())
    for name, mask in masks.items():
        assert torch.equal(held[name] != 0, mask)
        for key in ("exp_avg", "exp_avg_sq"):
            assert (inner.state[held[name]][key][~mask] == 0).all()
    logged = [row["sparsity"] for row in run.state.log_history if "loss" in row]
    assert len(logged) == 4
    assert len(set(logged)) == 1
    saved = read_masks(tmp_path / "checkpoint-4")
    assert saved.keys() == masks.keys()
    assert all(torch.equal(saved[n], m) for n, m in masks.items())


def test_without_the_callback_the_sparsity_is_lost(tmp_path: Path) -> None:
    model = tiny()
    keeper = MaskKeeper(model)
    trainer(model, tmp_path).train()
    assert keeper.sparsity() < 0.05


@pytest.mark.parametrize("how", ["callback", "keeper"])
def test_a_resumed_run_ends_as_the_whole_one(tmp_path: Path, how: str) -> None:
    whole, model = tiny(), tiny()
    trainer(whole, tmp_path / "whole", callback()).train()
    trainer(tiny(), tmp_path / "cut", callback(), steps=2).train()
    given = [MaskKeeper(model)] if how == "keeper" else []
    resumed = trainer(model, tmp_path / "cut", callback(*given))
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    for a, b in zip(whole.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_with_other_masks_is_refused(tmp_path: Path) -> None:
    trainer(tiny(), tmp_path, callback(), steps=2).train()
    model = tiny()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0] = 0
    other = callback(MaskKeeper(model))
    with pytest.raises(SteppeError, match=r"other masks for model.layers.0.mlp.up_proj.weight"):
        trainer(model, tmp_path, other).train(resume_from_checkpoint=True)


def test_a_checkpoint_whose_weights_lost_their_zeros_is_refused(tmp_path: Path) -> None:
    model = tiny()
    trainer(model, tmp_path, callback(), steps=2).train()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.fill_(1)
    model.save_pretrained(tmp_path / "checkpoint-2")
    with pytest.raises(SteppeError, match="masked weights must be zero"):
        trainer(tiny(), tmp_path, callback()).train(resume_from_checkpoint=True)


def test_a_checkpoint_from_elsewhere_is_named(tmp_path: Path) -> None:
    trainer(tiny(), tmp_path / "one", callback(), steps=2).train()
    folder = tmp_path / "one/checkpoint-2"
    run = trainer(tiny(), tmp_path / "two", callback(checkpoint=folder))
    run.train(resume_from_checkpoint=str(folder))
    assert (tmp_path / "two/checkpoint-4/masks.safetensors").is_file()
    with pytest.raises(SteppeError, match=r"holds no masks.safetensors"):
        trainer(tiny(), tmp_path / "two", callback(checkpoint=tmp_path)).train()


def test_adapters_are_trained_beside_kept_zeros(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="steppe[finetune]")
    model = peft.get_peft_model(tiny(), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    run = trainer(model, tmp_path, callback(), steps=2)
    run.train()
    assert read_masks(tmp_path / "checkpoint-2")


def test_importing_it_imports_no_transformers() -> None:
    code = "import sys, steppe.callbacks; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    with pytest.raises(ImportError, match="Other"):
        from steppe.llm.callback import Other  # noqa: F401
