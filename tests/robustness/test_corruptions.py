"""Each corruption beside a plain transcription of its published definition."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from looped import looped
from steppe.core.errors import SteppeError
from steppe.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from steppe.robustness.draws import Draws

_SPEC = importlib.util.spec_from_file_location(
    "corruption_reference", Path(__file__).parent / "corruption_reference.py"
)
reference = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(reference)

LEVEL = 1 / 255
FIXED = {
    "gaussian_blur", "defocus_blur", "zoom_blur", "brightness", "contrast", "saturate",
    "jpeg_compression", "pixelate",
}  # fmt: skip


class OneImage:
    """The draws that the tensors use for one image, without the first dimension."""

    def __init__(self, name, severity, index):
        self.draws = Draws(0, f"{name}/{severity}", range(index, index + 1))

    def __getattr__(self, kind):
        return lambda *shape, **more: getattr(self.draws, kind)(*shape, **more)[0].numpy()

    def poisson(self, rates):
        return self.draws.poisson(torch.from_numpy(rates)[None])[0].numpy()


class Own:
    """Draws of another generator: only the distribution is shared."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape):
        return self.rng.normal(size=shape)

    def uniform(self, *shape, low=0.0, high=1.0):
        return self.rng.uniform(low, high, size=shape)

    def integers(self, *shape, low, high):
        return self.rng.integers(low, high, size=shape)

    def poisson(self, rates):
        return self.rng.poisson(rates)


def images(count, side, seed=0):
    """Eight-bit images with smooth colours, edges and some grain, grey and black parts too."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side
    made = []
    for _ in range(count):
        a, b, phase = rng.uniform(-3, 3, (3, 3))
        x = 0.5 + 0.45 * np.sin(a * 3 * rows[..., None] + b * 3 * columns[..., None] + phase)
        edge = int(rng.integers(side // 4, side - side // 4))
        x[:edge, edge:] *= rng.uniform(0.2, 1, 3)
        x[-side // 8 :, : side // 8] = 0.5
        x[: side // 8, : side // 8] = 0.0
        made.append(np.clip(x + rng.normal(0, 0.03, x.shape) * (x > 0), 0, 1))
    return np.round(np.array(made) * 255) / 255


def tensors(x):
    return torch.from_numpy(x.transpose(0, 3, 1, 2)).float().contiguous()


def constants(name, severity, side):
    registered = CORRUPTIONS[name]
    return (registered.small if side <= 64 else registered.large)[severity - 1]


def test_all_of_them_are_there():
    extra = {name for name in CORRUPTIONS if CORRUPTIONS[name].extra}
    assert len(CORRUPTIONS) == 19
    assert extra == {"gaussian_blur", "saturate", "spatter", "speckle_noise"}


@looped(severity=SEVERITIES)
@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_as_published_at_32(name, severity):
    x = images(4, 32)
    corrupted = corrupt(tensors(x), name, severity).numpy().transpose(0, 2, 3, 1)
    for i, image in enumerate(x):
        draw = OneImage(name, severity, i)
        theirs = getattr(reference, name)(image.copy(), constants(name, severity, 32), draw)
        away = np.abs(corrupted[i] - np.clip(theirs, 0, 1))
        assert away.mean() < 0.5 * LEVEL, away.mean() / LEVEL
        # a JPEG coefficient on the edge between two steps may fall to either side
        assert name == "jpeg_compression" or np.quantile(away, 0.99) <= 2.01 * LEVEL


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"glass_blur"}))
def test_as_published_at_224(name):
    x = images(1, 224)
    for severity in (1, 4):
        corrupted = corrupt(tensors(x), name, severity).numpy().transpose(0, 2, 3, 1)
        draw = OneImage(name, severity, 0)
        theirs = getattr(reference, name)(x[0].copy(), constants(name, severity, 224), draw)
        away = np.abs(corrupted[0] - np.clip(theirs, 0, 1))
        assert away.mean() < 0.5 * LEVEL, away.mean() / LEVEL


def spectrum(x):
    """Mean power in eight rings of frequencies."""
    power = np.abs(np.fft.fft2(x - x.mean((1, 2), keepdims=True), axes=(1, 2))) ** 2
    f = np.fft.fftfreq(x.shape[1])
    ring = np.minimum((np.hypot(f[:, None], f) * 16).astype(int), 7)
    return np.array([power[:, ring == r].mean() for r in range(8)])


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - FIXED))
def test_distribution_of_the_random_ones(name):
    x = np.repeat(images(1, 32, seed=1), 256, 0)
    severity = 4
    ours = corrupt(tensors(x), name, severity).numpy().transpose(0, 2, 3, 1)
    function, c = getattr(reference, name), constants(name, severity, 32)
    theirs = np.array([np.clip(function(x[i].copy(), c, Own(i)), 0, 1) for i in range(256)])
    for measure in (np.mean, np.var):
        a, b = measure(ours, (1, 2, 3)), measure(theirs, (1, 2, 3))
        error = np.hypot(a.std(), b.std()) / 16
        assert abs(a.mean() - b.mean()) < 4 * error + 1e-3
    np.testing.assert_allclose(spectrum(ours), spectrum(theirs), rtol=0.15)


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_an_image_is_corrupted_alike_in_any_batch(name):
    x = tensors(images(6, 32))
    whole = corrupt(x, name, 5, seed=3)
    parts = [corrupt(x[i : i + 2], name, 5, seed=3, first=i) for i in (0, 2, 4)]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=1e-5)
    other = corrupt(x, name, 5, seed=4)
    assert torch.equal(whole, other) == (name in FIXED)
    assert not torch.equal(whole, corrupt(x, name, 1, seed=3))
    assert 0.0 <= float(whole.min())
    assert float(whole.max()) <= 1.0


@pytest.mark.parametrize("name", ["gaussian_noise", "jpeg_compression", "motion_blur", "fog"])
def test_other_shapes_and_dtypes(name):
    x = tensors(images(2, 40))[:, :, :30].double()
    corrupted = corrupt(x, name, 2)
    assert corrupted.dtype == torch.float64
    assert corrupted.shape == x.shape
    assert corrupt(x[:0], name, 2).shape == (0, 3, 30, 40)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.rand(2, 3, 8, 8) * 2, "values from"),
        (torch.full((2, 3, 8, 8), float("nan")), "values from nan"),
        (torch.rand(2, 1, 8, 8), r"shape \[2, 1, 8, 8\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "uint8"),
    ],
)
def test_images_that_are_none(x, text):
    with pytest.raises(SteppeError, match=text):
        corrupt(x, "fog", 1)


def test_bad_names_severities_and_constants():
    x = torch.rand(1, 3, 8, 8)
    with pytest.raises(SteppeError, match="did you mean fog"):
        corrupt(x, "fgo", 1)
    with pytest.raises(SteppeError, match="severity 6"):
        corrupt(x, "fog", 6)
    with pytest.raises(SteppeError, match="small or large"):
        corrupt(x, "fog", 1, constants="medium")
