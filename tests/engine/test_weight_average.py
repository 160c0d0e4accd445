"""A running mean of the weights in a run, killed and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import steppe
from steppe.core.errors import SteppeError
from steppe.engine.run_folder import RunFolder
from steppe.engine.trainer import TrainConfig, Trainer, make_accelerator
from steppe.engine.weight_average import WeightAverage
from steppe.method import Method

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


class Batches:
    """Four batches an epoch; ends a run after so many."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.left = stop_at

    def __len__(self) -> int:
        return 4

    def epoch(self, number: int, start: int = 0):  # type: ignore[no-untyped-def]
        order = torch.randperm(24, generator=torch.Generator().manual_seed(number))
        for position in range(start, 4):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left = None if self.left is None else self.left - 1
            rows = order[6 * position : 6 * position + 6]
            yield X[rows], Y[rows]


def trainer(
    method: Method, batches: Batches, run: RunFolder | None = None, ema: float | None = 0.8
) -> Trainer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    config = TrainConfig(epochs=3, lr=0.1, bn_batches=0, checkpoint_steps=2, eval_every=0, ema=ema)
    accelerator = make_accelerator(config, "cpu", ".")
    evaluate = lambda m: {"accuracy": 0.0}  # noqa: E731
    return Trainer(model, batches, evaluate, method, config, accelerator, run=run, quiet=True)


def test_the_mean_of_all_steps_takes_the_weights_place() -> None:
    made = trainer(steppe.methods.dense(), Batches())
    expected = {n: p.detach().clone() for n, p in made.plain.named_parameters()}
    step, steps = made.sparsifier.step, 0

    def watched(*closures):  # type: ignore[no-untyped-def]
        nonlocal steps
        loss, steps = step(*closures), steps + 1
        decay = min(0.8, (1 + steps) / (10 + steps))
        for name, p in made.plain.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * p.detach()
        return loss

    made.sparsifier.step = watched  # type: ignore[method-assign]
    made.fit()
    for name, p in made.plain.named_parameters():
        torch.testing.assert_close(p.detach(), expected[name])


@pytest.mark.parametrize("method", ["gmp", "safe", "soft_threshold"])
def test_it_has_the_zeros_of_the_method(method: str) -> None:
    made, raw = (
        trainer(steppe.methods.make(method, sparsity=0.5), Batches(), ema=ema)
        for ema in (0.8, None)
    )
    finished = made.fit().finished
    raw.fit()
    assert finished.reached == pytest.approx(0.5, abs=0.03)
    weights = dict(made.plain.named_parameters())
    for name, mask in finished.masks.items():
        assert not bool(weights[name][~mask].any())
    assert any(
        not torch.equal(a, b)
        for a, b in zip(made.plain.parameters(), raw.plain.parameters(), strict=True)
    )


def test_it_is_measured_with_its_own_statistics_before_the_cut() -> None:
    """The figure before the last projection is that of the mean, as a network by itself."""
    measured: list[dict[str, Tensor]] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        measured.append({n: t.detach().clone() for n, t in model.state_dict().items()})
        return {"accuracy": 0.0}

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    config = TrainConfig(epochs=3, lr=0.1, bn_batches=4, eval_every=0, ema=0.8)
    accelerator, method = make_accelerator(config, "cpu", "."), steppe.methods.gmp(sparsity=0.5)
    made = Trainer(model, Batches(), evaluate, method, config, accelerator, quiet=True)
    finished = made.fit()
    before, after = measured
    assert not torch.equal(before["0.weight"], after["0.weight"])
    for state in (before, after):
        seen = torch.stack([X[rows] for rows in torch.randperm(24, generator=_of(3)).split(6)])
        hidden = seen @ state["0.weight"].T + state["0.bias"]
        torch.testing.assert_close(state["1.running_mean"], hidden.mean((0, 1)))
        torch.testing.assert_close(state["1.running_var"], hidden.var(1).mean(0))
    assert finished.notes.count("running statistics of 1 norm estimated from 4 batches") == 1


def _of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    method = steppe.methods.gmp(sparsity=0.5)
    whole = trainer(method, Batches())
    whole.fit()
    recipe = {"method": method.to_dict()}
    killed = trainer(method, Batches(stop_at=7), _claimed(tmp_path, recipe))
    with pytest.raises(KeyboardInterrupt):
        killed.fit()
    resumed = trainer(method, Batches(), RunFolder(tmp_path, recipe))
    resumed.fit()
    assert any("resumed after step 6" in note for note in resumed.sparsifier.notes)
    state: dict[str, Tensor] = whole.plain.state_dict()
    for name, tensor in resumed.plain.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def _claimed(path: Path, recipe: dict[str, object]) -> RunFolder:
    folder = RunFolder(path, recipe)
    folder.claim()
    return folder


def test_what_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(SteppeError, match="a method that rewinds"):
        trainer(steppe.methods.lrr(sparsity=0.8, cycles=3), Batches())
    with pytest.raises(SteppeError, match=r"ema must lie in \(0, 1\); got 1"):
        WeightAverage(nn.Linear(1, 1), 1.0)
    norms = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
    config = TrainConfig(epochs=1, ema=0.9, bn_batches=0)
    with pytest.raises(SteppeError, match="ema with bn_batches 0"):
        config.average_of(norms, whole=True)
    assert config.average_of(norms[:1], whole=True) is not None
