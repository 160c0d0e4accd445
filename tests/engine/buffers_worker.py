"""One of two processes of a run; keeps what it has at each checkpoint and at the end."""

import json
import sys
from pathlib import Path

import torch

import steppe
from steppe.engine import ranks
from steppe.engine.checkpoints import Checkpoints
from steppe.engine.trainer import Trainer


def copied(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


if __name__ == "__main__":
    recipe, out = sys.argv[1:]
    checkpoints, end = [], []
    save, fit = Checkpoints.save, Trainer.fit

    def saving(self, state):
        checkpoints.append(copied(self._model))
        save(self, state)

    def fitting(self):
        outcome = fit(self)
        end.append(copied(self.plain))
        return outcome

    Checkpoints.save, Trainer.fit = saving, fitting
    steppe.train(json.loads(Path(recipe).read_text()), out)
    torch.save({"checkpoints": checkpoints, "end": end[0]}, f"{out}-{ranks.rank()}.pt")
    ranks.leave(0)
