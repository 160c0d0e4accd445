"""A real Lightning Trainer that trains sparsely does what a loop of one's own does, bit for bit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import steppe
from steppe.core.errors import SteppeError

lightning = pytest.importorskip("lightning.pytorch")
EPOCHS, BATCHES, GATHERED = 2, 5, 2
STEPS = EPOCHS * 3  # the last step of an epoch has one batch
torch.manual_seed(1)
X, Y = torch.randn(4 * BATCHES, 6), torch.randint(0, 3, (4 * BATCHES,))

METHODS = {
    "dense": lambda: steppe.methods.dense(),
    "gmp": lambda: steppe.methods.gmp(sparsity=0.5),
    "admm": lambda: steppe.methods.admm(sparsity=0.5, interval=2),
    "safe": lambda: steppe.methods.safe(sparsity=0.5, interval=2),
    "pilot": lambda: steppe.methods.pilot(sparsity=0.5),
}


def loader() -> Any:
    return DataLoader(TensorDataset(X, Y), batch_size=4)


class Plain(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        self.logged = 0

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        return [optimizer], [schedule]

    def batch_loss(self, batch: Any) -> dict[str, torch.Tensor]:
        logits = self.net(batch[0])
        right = (logits.argmax(1) == batch[1]).float().mean()
        return {"loss": F.cross_entropy(logits, batch[1]), "accuracy": right}

    def training_step(self, batch: Any, index: int) -> Any:
        out = self.batch_loss(batch)
        self.log("train_loss", out["loss"])
        return out


class Manual(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.batches: list[Any] = []

    def training_step(self, batch: Any, index: int) -> None:
        self.batches.append(batch)
        if len(self.batches) < GATHERED and index < BATCHES - 1:
            return
        gathered, self.batches = self.batches, []

        def closure(batch: Any) -> Any:
            out = self.batch_loss(batch)
            return out["loss"], out["accuracy"]

        self.sparsifier.step(*[lambda b=b: closure(b) for b in gathered])
        if index == BATCHES - 1:
            self.lr_schedulers().step()


def run(module: Any, *callbacks: Any, out: Path | None = None, **options: Any) -> Any:
    given = {"max_epochs": EPOCHS, "accelerator": "cpu", "devices": 1, "logger": False}
    given |= {"enable_progress_bar": False, "enable_model_summary": False}
    if module.automatic_optimization:
        given |= {"accumulate_grad_batches": GATHERED, "gradient_clip_val": 0.5}
    if out is None:
        given["enable_checkpointing"] = False
    trainer = lightning.Trainer(**given | options, callbacks=list(callbacks))
    resumed = options.pop("resumed", None)
    trainer.fit(module, loader(), ckpt_path=resumed)
    return trainer


def own_loop(method: Any, micro_batches: str, clip: float | None) -> tuple[Plain, Any]:
    """The same run, written out."""
    module = Plain().train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.02, weight_decay=0.0)
    options = steppe.StepOptions(micro_batches=micro_batches)
    sparsifier = steppe.sparsify(
        module, optimizer, method, STEPS, clip_grad_norm=clip, steps_per_epoch=3, options=options
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    share = 1 / GATHERED if micro_batches == "sum" else 1.0

    def closure(batch: Any) -> Any:
        out = module.batch_loss(batch)
        return out["loss"] * share, out["accuracy"]

    for _ in range(EPOCHS):
        batches = iter(loader())
        while gathered := list(itertools.islice(batches, GATHERED)):
            sparsifier.step(*[lambda b=b: closure(b) for b in gathered])
        schedule.step()
    return module, sparsifier.finish()


def same(one: nn.Module, other: nn.Module) -> None:
    assert list(one.state_dict()) == list(other.state_dict())
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


@pytest.mark.parametrize("name", METHODS)
def test_automatic_optimisation_is_the_loop_of_ones_own(name: str) -> None:
    expected, finished = own_loop(METHODS[name](), "sum", 0.5)
    module = Plain()
    sparse = steppe.callbacks.LightningSparsifier(METHODS[name]())
    trainer = run(module, sparse)
    same(module, expected)
    assert sparse.finished.zeros == finished.zeros
    assert trainer.global_step == STEPS
    assert "training_step" not in vars(trainer.strategy)
    assert not {"backward", "optimizer_step", "configure_optimizers"} & set(vars(module))


def test_dense_is_lightning_itself() -> None:
    plain, ours = Plain(), Plain()
    run(plain)
    run(ours, steppe.callbacks.LightningSparsifier(steppe.methods.dense()))
    same(plain, ours)


@pytest.mark.parametrize("name", ["gmp", "safe", "pilot"])
def test_manual_optimisation_is_the_loop_of_ones_own(name: str) -> None:
    expected, _ = own_loop(METHODS[name](), "mean", None)
    module = Manual()
    steps = {"total_steps": STEPS, "steps_per_epoch": 3}
    trainer = run(module, steppe.callbacks.LightningSparsifier(METHODS[name](), **steps))
    same(module, expected)
    assert trainer.global_step == STEPS


@pytest.mark.parametrize("name", ["safe", "pilot"])
def test_resumed_it_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    def checkpoints() -> Any:
        return lightning.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)

    whole = Plain()
    run(whole, steppe.callbacks.LightningSparsifier(METHODS[name]()), checkpoints(), out=tmp_path)
    again = Plain()
    sparse = steppe.callbacks.LightningSparsifier(METHODS[name]())
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=GATHERED,
        gradient_clip_val=0.5,
        callbacks=[sparse, checkpoints()],
    )
    first = tmp_path / "epoch=0.ckpt"
    trainer.fit(again, loader(), ckpt_path=first, weights_only=True)
    same(whole, again)
    saved = torch.load(first, weights_only=True)["state_dict"]
    assert set(saved) == set(Plain().state_dict())  # an ordinary checkpoint


def test_what_a_second_pass_logs_is_left_out() -> None:
    class Counting(Plain):
        def log(self, *given: Any, **named: Any) -> None:
            self.logged += 1

    module = Counting()
    run(module, steppe.callbacks.LightningSparsifier(METHODS["safe"]()))
    assert module.logged == EPOCHS * BATCHES


def test_what_cannot_be_done_is_one_line() -> None:
    sparse = steppe.callbacks.LightningSparsifier
    with pytest.raises(SteppeError, match="clipping by value"):
        run(Plain(), sparse(METHODS["gmp"]()), gradient_clip_algorithm="value")
    with pytest.raises(SteppeError, match="known number of steps"):
        run(Plain(), sparse(METHODS["gmp"]()), max_epochs=-1)

    class Warming(Plain):
        def optimizer_step(self, *given: Any, **named: Any) -> None:
            super().optimizer_step(*given, **named)

    with pytest.raises(SteppeError, match="its own optimizer_step"):
        run(Warming(), sparse(METHODS["gmp"]()))
    used = sparse(METHODS["gmp"]())
    run(Plain(), used)
    with pytest.raises(SteppeError, match="serves one run"):
        run(Plain(), used)
