"""Noise on pixels: the same whatever the batch, before normalisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.robustness import accuracy_under_noise, gaussian_noise


class Recorder(nn.Module):
    """Keeps what it was shown; answers with the mean of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.seen: list[Tensor] = []
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        self.modes.append(self.norm.training)
        return x.mean((2, 3))


def images(n: int = 10) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, x.mean((2, 3)).argmax(1)


def test_the_batch_size_does_not_change_the_pixels() -> None:
    x, y = images()
    seen = []
    for batch_size in (1, 3, 10):
        model = Recorder()
        accuracy_under_noise(model, x, y, sigma=0.2, seed=5, batch_size=batch_size)
        seen.append(torch.cat(model.seen))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_the_noise_has_its_distribution_and_its_seeds() -> None:
    x = torch.full((64, 3, 16, 16), 0.5)
    noise = gaussian_noise(x, sigma=0.05, seed=0, clip=False) - x
    assert abs(float(noise.mean())) < 1e-3
    assert float(noise.std()) == pytest.approx(0.05, rel=0.02)
    assert len({float(n[0, 0, 0]) for n in noise}) == 64
    other = gaussian_noise(x, sigma=0.05, seed=1, clip=False) - x
    assert abs(float((noise * other).mean())) < 1e-4
    # common random numbers: the pattern is the same at every strength
    twice = gaussian_noise(x, sigma=0.1, seed=0, clip=False) - x
    torch.testing.assert_close(twice, 2 * noise)


def test_noise_comes_before_normalisation_and_is_clipped() -> None:
    x, y = images()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    by_pair, by_call = Recorder(), Recorder()
    accuracy_under_noise(by_pair, x, y, sigma=0.5, seed=2, mean=mean, std=torch.tensor(std))
    m, s = (torch.tensor(v).reshape(3, 1, 1) for v in (mean, std))
    accuracy_under_noise(by_call, x, y, sigma=0.5, seed=2, normalise=lambda z: (z - m) / s)
    assert torch.equal(by_pair.seen[0], by_call.seen[0])
    pixels = by_pair.seen[0] * s + m
    torch.testing.assert_close(pixels, gaussian_noise(x, sigma=0.5, seed=2))
    assert float(pixels.min()) >= -1e-6
    assert float(pixels.max()) <= 1 + 1e-6


def test_eval_mode_and_accuracy() -> None:
    x, y = images()
    model = Recorder().train()
    assert accuracy_under_noise(model, x, y, sigma=0.0) == 1.0
    assert model.modes == [False]
    assert model.norm.training
    assert accuracy_under_noise(model, x, (y + 1) % 3, sigma=0.0) == 0.0


def test_what_cannot_work_says_so() -> None:
    x, y = images()
    for bad in (x * 2, x - 1, x * float("nan"), (x * 255).to(torch.uint8)):
        with pytest.raises(SteppeError, match=r"\[0, 1\]"):
            accuracy_under_noise(Recorder(), bad, y, sigma=0.1)
    with pytest.raises(SteppeError, match="label"):
        accuracy_under_noise(Recorder(), x, y[:3], sigma=0.1)
    with pytest.raises(SteppeError, match="both mean and std"):
        accuracy_under_noise(Recorder(), x, y, sigma=0.1, mean=(0.5,))
    with pytest.raises(SteppeError, match="sigma"):
        accuracy_under_noise(Recorder(), x, y, sigma=-0.1)
