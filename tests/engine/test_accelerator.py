"""accelerate's engine: trackers that would get nothing are refused."""

import pytest

from steppe import SteppeError
from steppe.engine import accelerator
from steppe.engine.train_config import TrainConfig


def test_a_tracker_is_known_and_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "get_available_trackers", lambda: ["wandb"])
    for name, said in (("tensorbord", "did you mean tensorboard"), ("mlflow", "must be installed")):
        with pytest.raises(SteppeError, match=said):
            accelerator.make_accelerator(TrainConfig(epochs=1, trackers=(name,)), "cpu", ".")
