"""A real Trainer that trains sparsely does, bit for bit, what a loop of one's own does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import steppe
from steppe.core.errors import SteppeError
from steppe.engine.mask_keeper import MASKS, read_masks

transformers = pytest.importorskip("transformers")
STEPS, BATCH = 6, 2
torch.manual_seed(1)
TOKENS = torch.randint(0, 64, (2 * STEPS * BATCH, 8))
LABELS = TOKENS.clone()
LABELS[::3, :5] = -100  # micro-batches differ in how many tokens count

METHODS = {
    "dense": lambda: steppe.methods.dense(),
    "gmp": lambda: steppe.methods.gmp(sparsity=0.5),
    "admm": lambda: steppe.methods.admm(sparsity=0.5, interval=2),
    "safe": lambda: steppe.methods.safe(sparsity=0.5, interval=2),
    "pilot": lambda: steppe.methods.pilot(sparsity=0.5),
}


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
    return transformers.LlamaForCausalLM(config)


def trainer(model: nn.Module, out: Path, **options: Any) -> Any:
    given = {
        "output_dir": str(out),
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "linear",
        "warmup_steps": 2,
        "weight_decay": 0.1,
        "max_grad_norm": 0.5,
        "save_steps": 3,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "train_sampling_strategy": "sequential",
    }
    args = transformers.TrainingArguments(**given | options)
    data = [{"input_ids": i, "labels": y} for i, y in zip(TOKENS, LABELS, strict=True)]
    return transformers.Trainer(model, args, train_dataset=data)


def accuracy(inputs: Any, outputs: Any) -> torch.Tensor:
    return (outputs.logits.argmax(-1) == inputs["labels"]).float().mean()


def attached(method: Any, run: Any, **options: Any) -> Any:
    watches = {"accuracy": accuracy} if method.coupling.watches == "accuracy" else {}
    return steppe.callbacks.TrainerSparsifier(method, **watches, **options).attach(run)


def own_loop(method: Any) -> tuple[nn.Module, Any]:
    """The same run, written out."""
    model = tiny().train()
    norms = [p for n, p in model.named_parameters() if "norm" in n]
    rest = [p for n, p in model.named_parameters() if "norm" not in n]
    groups = [{"params": rest, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, fused=True)
    sparsifier = steppe.sparsify(
        model,
        optimizer,
        method,
        STEPS,
        clip_grad_norm=0.5,
        steps_per_epoch=STEPS,
        options=steppe.StepOptions(micro_batches="sum"),
    )
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, 2, STEPS)
    for step in range(STEPS):
        rows = [slice((2 * step + i) * BATCH, (2 * step + i + 1) * BATCH) for i in range(2)]
        tokens = sum((LABELS[r][:, 1:] != -100).sum() for r in rows)

        def closure(r: slice, tokens: Any = tokens) -> Any:
            inputs = {"input_ids": TOKENS[r], "labels": LABELS[r]}
            out = model(**inputs, num_items_in_batch=tokens)
            if method.coupling.watches == "accuracy":
                return out.loss, accuracy(inputs, out)
            return out.loss

        sparsifier.step(*[lambda r=r, c=closure: c(r) for r in rows])
        schedule.step()
    return model, sparsifier.finish()


@pytest.mark.parametrize("name", METHODS)
def test_it_is_the_loop_of_ones_own(name: str, tmp_path: Path) -> None:
    model, finished = own_loop(METHODS[name]())
    theirs = tiny()
    run = trainer(theirs, tmp_path)
    sparse = attached(METHODS[name](), run)
    run.train()
    for key, weight in model.state_dict().items():
        assert torch.equal(weight, theirs.state_dict()[key]), key
    assert sparse.finished.zeros == finished.zeros
    assert run.state.global_step == STEPS


def test_dense_is_the_trainer_itself(tmp_path: Path) -> None:
    plain, ours = tiny(), tiny()
    trainer(plain, tmp_path / "a").train()
    run = trainer(ours, tmp_path / "b")
    attached(steppe.methods.dense(), run)
    run.train()
    for key, weight in plain.state_dict().items():
        assert torch.equal(weight, ours.state_dict()[key]), key


@pytest.mark.parametrize("name", ["safe", "pilot"])
def test_resumed_it_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = tiny()
    run = trainer(whole, tmp_path / "whole")
    attached(METHODS[name](), run)
    run.train()
    again = tiny()
    run = trainer(again, tmp_path / "whole")
    sparse = attached(METHODS[name](), run)
    run.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    for key, weight in whole.state_dict().items():
        assert torch.equal(weight, again.state_dict()[key]), key
    assert sparse.finished.sparsity == pytest.approx(0.5, abs=1e-3)


def test_checkpoints_and_the_end_are_ordinary_models(tmp_path: Path) -> None:
    model = tiny()
    run = trainer(model, tmp_path)
    sparse = attached(METHODS["pilot"](), run)
    run.train()
    run.save_model(str(tmp_path / "end"))
    _, told = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "checkpoint-3", output_loading_info=True
    )
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    end = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "end")
    weights = dict(end.named_parameters())
    for name, mask in read_masks(tmp_path / MASKS).items():
        assert (weights[name][~mask] == 0).all()
        assert torch.equal(mask, sparse.finished.masks[name])


def test_what_cannot_be_done_is_one_line(tmp_path: Path) -> None:
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 500}
    args = transformers.TrainingArguments(str(tmp_path), report_to=[], use_cpu=True, **best)
    data = [{"input_ids": i, "labels": i} for i in TOKENS]
    run = transformers.Trainer(tiny(), args, train_dataset=data, eval_dataset=data)
    with pytest.raises(SteppeError, match="load_best_model_at_end"):
        attached(METHODS["gmp"](), run)
    with pytest.raises(SteppeError, match="accuracy"):
        steppe.callbacks.TrainerSparsifier(METHODS["pilot"]()).attach(trainer(tiny(), tmp_path))
    run = trainer(tiny(), tmp_path / "plain")
    run.train()
    run = trainer(tiny(), tmp_path / "plain")
    attached(METHODS["gmp"](), run)
    with pytest.raises(SteppeError, match="checkpoint of a sparse run"):
        run.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-3"))


def test_a_training_step_that_goes_backward_by_itself_is_one_line(tmp_path: Path) -> None:
    class Own(transformers.Trainer):
        def training_step(self, model: Any, inputs: Any, *given: Any) -> Any:
            loss = self.compute_loss(model, inputs)
            loss.backward()
            return loss.detach()

    run = trainer(tiny(), tmp_path)
    run.__class__ = Own
    attached(METHODS["gmp"](), run)
    with pytest.raises(SteppeError, match=r"accelerator\.backward"):
        run.train()


@pytest.mark.parametrize("length", [{"num_train_epochs": 2.5, "max_steps": -1}, {"max_steps": 15}])
def test_an_epoch_is_as_long_as_its_data(length: dict[str, Any], tmp_path: Path) -> None:
    from steppe.callbacks.trainer_sparsifier import _steps_per_epoch

    assert _steps_per_epoch(trainer(tiny(), tmp_path, **length)) == STEPS
