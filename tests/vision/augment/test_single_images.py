"""Changes of one image: what each must and must not do."""

from __future__ import annotations

import colorsys
import random as python_random
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from steppe.core.errors import SteppeError
from steppe.vision.augment import AUGMENTATIONS
from steppe.vision.augment.color_jitter import ColorJitter, turned
from steppe.vision.augment.kinds import ImageStep
from steppe.vision.augment.rand_augment import OPERATIONS, RandAugment, applied
from steppe.vision.augment.random_erasing import RandomErasing
from steppe.vision.augment.transform import Transform, as_image

STEPS = [AUGMENTATIONS[n] for n in AUGMENTATIONS if issubclass(AUGMENTATIONS[n], ImageStep)]
STRONG: dict[str, dict[str, Any]] = {
    "color_jitter": {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.3},
    "rand_augment": {"n": 3, "m": 20},
    "random_erasing": {"p": 1.0},
    "transform": {"function": lambda image: image.rotate(int(torch.randint(1, 90, ())))},
}


def image(mode: str = "RGB", side: int = 24) -> Image.Image:
    shape = (side, side, 3) if mode == "RGB" else (side, side)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def levels(made: Image.Image) -> np.ndarray:
    return np.asarray(made, dtype=int)


@pytest.mark.parametrize("kind", STEPS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_each_is_a_function_of_the_image_and_its_random_numbers(kind: Any, mode: str) -> None:
    step = kind(**STRONG.get(kind.name, {}))
    torch.manual_seed(3)
    states = (torch.get_rng_state(), python_random.getstate())
    made = [step(image(mode), Random(seed)) for seed in (1, 1, 2, 3, 4)]
    assert np.array_equal(levels(made[0]), levels(made[1]))
    assert {m.size for m in made} == {(24, 24)}
    assert {m.mode for m in made} == {mode}
    assert len({m.tobytes() for m in made}) > 1
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == python_random.getstate()


def test_nothing_of_strength_zero_changes_an_image() -> None:
    assert ColorJitter()(image(), Random(0)).tobytes() == image().tobytes()
    assert RandomErasing(p=0.0)(image(), Random(0)).tobytes() == image().tobytes()
    moves = [name for name in OPERATIONS if name not in ("autocontrast", "equalize")]
    for name in moves:
        gap = np.abs(levels(applied(image(), name, 0.0)) - levels(image())).max()
        assert gap <= (1 if name in ("solarize", "posterize") else 0), name


@pytest.mark.parametrize(
    ("name", "strength", "expected"),
    [
        ("translate_x", 1.0, lambda x: np.pad(x, ((0, 0), (0, 11), (0, 0)))[:, 11:]),
        ("translate_y", 0.5, lambda x: np.pad(x, ((0, 5), (0, 0), (0, 0)))[5:]),
        ("posterize", 1.0, lambda x: x // 16 * 16),
        ("solarize", 0.5, lambda x: np.where(x < 128, x, 255 - x)),
        ("brightness", 1.0, lambda x: np.minimum(x * 1.9, 255)),
    ],
)
def test_an_operation_is_what_its_name_says(name: str, strength: float, expected: Any) -> None:
    gap = np.abs(levels(applied(image(), name, strength)) - expected(levels(image())))
    assert gap.max() <= 1


def test_rand_augment_draws_all_operations_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, float]] = []
    monkeypatch.setattr(
        "steppe.vision.augment.rand_augment.applied",
        lambda given, name, strength, sign: drawn.append((name, sign)) or given,  # type: ignore[func-returns-value]
    )
    for seed in range(700):
        RandAugment(n=2, m=9)(image(), Random(seed))
    names = [name for name, _ in drawn]
    assert len(drawn) == 1400
    assert {names.count(name) for name in OPERATIONS} <= set(range(65, 140))
    assert 0.45 < np.mean([sign > 0 for _, sign in drawn]) < 0.55


def test_hues_turn_as_on_the_colour_circle() -> None:
    for turn in (0.25, -0.1, 0.5):
        made = turned(Image.new("RGB", (1, 1), (200, 60, 20)), turn).getpixel((0, 0))
        h, s, v = colorsys.rgb_to_hsv(200 / 255, 60 / 255, 20 / 255)
        expected = [255 * c for c in colorsys.hsv_to_rgb((h + turn) % 1, s, v)]
        assert np.allclose(made, expected, atol=6)
    grey = Image.new("L", (2, 2), 7)
    assert turned(grey, 0.3).tobytes() == grey.tobytes()


def test_an_erased_box_has_the_area_and_the_colour_asked_for() -> None:
    step = RandomErasing(p=1.0, area=(0.1, 0.2), fill=(1, 2, 3))
    shares = []
    for seed in range(50):
        made = levels(step(Image.new("RGB", (60, 60), (9, 9, 9)), Random(seed)))
        erased = (made == [1, 2, 3]).all(2)
        shares.append(erased.mean())
        rows, columns = np.nonzero(erased.any(1))[0], np.nonzero(erased.any(0))[0]
        assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all(), "a box"
    assert 0.09 < min(shares) < 0.13
    assert 0.17 < max(shares) < 0.21
    noisy = RandomErasing(p=1.0, fill="noise")(Image.new("RGB", (60, 60)), Random(0))
    assert len(set(noisy.tobytes())) > 100


def test_a_transform_may_draw_from_any_generator_and_give_tensors() -> None:
    def function(given: Image.Image) -> torch.Tensor:
        level = int(torch.randint(256, ())) ^ python_random.randrange(256) ^ np.random.randint(256)
        return torch.full((3, 4, 6), level, dtype=torch.uint8)

    made = [Transform(function)(image(), Random(seed)) for seed in (0, 0, 1)]
    assert made[0].size == (6, 4)
    assert made[0].tobytes() == made[1].tobytes() != made[2].tobytes()
    with pytest.raises(SteppeError, match=r"got Tensor \[3, 2, 2\] torch.float32.*normalises"):
        as_image(torch.zeros(3, 2, 2))
    with pytest.raises(SteppeError, match="There is no module nowhere"):
        Transform("nowhere:at_all")
