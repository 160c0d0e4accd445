"""One of two processes: transformers' Trainer and Lightning with DDP, sparse and plain.

torchrun --nproc-per-node 2 ddp_worker.py OUT
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import steppe
from steppe.engine import ranks


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Any, labels: Any) -> dict[str, torch.Tensor]:
        return {"loss": F.cross_entropy(self.net(x), labels)}


def rows() -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    x, y = torch.randn(32, 6), torch.randint(0, 3, (32,))
    return [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]


def weights(model: nn.Module) -> list[float]:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()


def in_trainer(method: Any, out: Path) -> dict[str, Any]:
    from transformers import Trainer, TrainingArguments

    model = Regression()
    args = TrainingArguments(
        str(out),
        max_steps=4,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        max_grad_norm=0.1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, args, train_dataset=rows())
    sparse = steppe.callbacks.TrainerSparsifier(method).attach(trainer) if method else None
    trainer.train()
    assert type(trainer.model_wrapped).__name__ == "DistributedDataParallel"
    return {"weights": weights(model), "zeros": sparse.finished.zeros if sparse else 0}


def in_lightning(method: Any) -> dict[str, Any]:
    import lightning.pytorch as lightning
    from torch.utils.data import DataLoader

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Regression()

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.02)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return self.inner(**batch)["loss"]

    module = Module()
    callbacks = [steppe.callbacks.LightningSparsifier(method)] if method else []
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        accumulate_grad_batches=2,
        gradient_clip_val=0.1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
    trainer.fit(module, DataLoader(rows(), batch_size=2))
    assert trainer.world_size == 2
    return {"weights": weights(module), "zeros": callbacks[0].finished.zeros if callbacks else 0}


def main(out: Path) -> None:
    cases = {
        "plain": None,
        "dense": steppe.methods.dense(),
        "safe": steppe.methods.safe(sparsity=0.5, interval=2),
    }
    told = {f"trainer {k}": in_trainer(m, out / k) for k, m in cases.items()}
    told |= {f"lightning {k}": in_lightning(m) for k, m in cases.items()}
    (out / f"rank{os.environ['RANK']}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    ranks.leave(0)
