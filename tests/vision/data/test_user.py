"""A user's own datasets."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import steppe
from steppe.core.errors import SteppeError
from steppe.vision.augment.random_resized_crop import RandomResizedCrop
from steppe.vision.data import load
from steppe.vision.loader import Loader

MODULE = """
import os
import random
import numpy as np
import torch
from PIL import Image

class Squares:
    classes = ["dark", "light"]
    def __init__(self, n, targets):
        self.n = n
        if targets:
            self.targets = torch.arange(n) % 2
    def __len__(self):
        return self.n
    def __getitem__(self, i):
        label = i % 2
        image = Image.new("RGB", (30 + i, 40), (i, 100 + 100 * label, 7))
        return image, label

class Tensors(Squares):
    def __getitem__(self, i):
        image, label = super().__getitem__(i)
        level = torch.tensor(list(image.getpixel((0, 0))), dtype=torch.uint8)
        return {"image": level.view(3, 1, 1).expand(3, 40, 30 + i), "label": label}

def pictures():
    return {"train": Squares(12, True), "test": Squares(6, True)}

def tensors():
    return {"train": Tensors(12, False), "val": Tensors(6, False)}

def one():
    return Squares(12, True)

class Draws(Squares):
    def __getitem__(self, i):
        levels = random.randrange(256), np.random.randint(256), int(torch.randint(256, ()))
        return Image.new("RGB", (16, 16), levels), i % 2

def draws():
    return {"train": Draws(12, True), "test": Draws(6, True)}

class Breaks(Squares):
    def __init__(self, kind):
        super().__init__(12, True)
        self.kind = kind
    def __getitem__(self, i):
        if i == 9:
            raise self.kind("item of mine\\nis broken")
        return super().__getitem__(i)

def breaks(kind):
    return lambda: {"train": Breaks(kind), "test": Squares(6, True)}

runtime, system, key, ended = map(breaks, (RuntimeError, OSError, KeyError, StopIteration))
doubts, memory = map(breaks, (AssertionError, MemoryError))

def unlabelled():
    broken = Breaks(EOFError)
    del broken.targets
    return {"train": broken, "test": Squares(6, True)}

class Leaves(Squares):
    def __getitem__(self, i):
        if i == 9:
            os._exit(3)
        return super().__getitem__(i)

def leaves():
    return {"train": Leaves(12, True), "test": Squares(6, True)}

def floats():
    class Floats(Squares):
        def __getitem__(self, i):
            return torch.zeros(3, 8, 8), 0
    return {"train": Floats(4, True), "test": Floats(4, True)}
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_squares.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)


def opened(function: str, **options: Any) -> Any:
    usual = {"size": 16, "augment": "none", "say": lambda note: None}
    return load(f"own_squares:{function}", **(usual | options))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("function", ["pictures", "tensors"])
def test_its_items_are_trained_on(function: str, stream: bool) -> None:
    data = opened(function, stream=stream, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert (len(data.train), len(data.test), data.classes) == (12, 6, ("dark", "light"))
    assert any("read for their labels" in note for note in data.notes) == (function == "tensors")
    x, y = next(Loader.of(data, "test", 6, workers=1).epoch(0))
    assert y.tolist() == [0, 1, 0, 1, 0, 1]
    torch.testing.assert_close(x[:, 0, 0, 0] * 255, torch.arange(6.0))
    torch.testing.assert_close(x[:, 1, 5, 5] * 255, 100.0 + 100 * y)


def drawn(loader: Loader, epoch: int, start: int = 0) -> torch.Tensor:
    """The levels of each image, ``[n, 3]``, in the order of the dataset's rows."""
    images = torch.cat([x for x, _ in loader.epoch(epoch, start)])
    return (images[:, :, 0, 0] * 255).round().int()


def states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_what_an_item_draws_depends_on_seed_epoch_and_number_alone() -> None:
    data = opened("draws", stream=True, mean=(0.0,) * 3, std=(1.0,) * 3)
    options: dict[str, Any] = {"shuffle": False, "drop_last": False}
    before = states()
    alone = Loader.of(data, "train", 5, seed=3, workers=0, **options)
    first, second = drawn(alone, 0), drawn(alone, 1)
    assert states() == before, "the process's generators are given back"
    for channel in range(3):
        assert len(set(first[:, channel].tolist()) | set(second[:, channel].tolist())) > 12
    for workers in (0, 1, 3):
        random.seed(workers)
        np.random.seed(workers)
        torch.manual_seed(workers)
        loader = Loader.of(data, "train", 5, seed=3, workers=workers, **options)
        assert torch.equal(drawn(loader, 0), first)
        assert torch.equal(drawn(loader, 1), second)
        assert torch.equal(drawn(loader, 0, start=1), first[5:])
    for rank in range(2):
        share = Loader.of(data, "train", 6, seed=3, rank=rank, world=2, workers=1, **options)
        assert torch.equal(drawn(share, 0), first[rank::2])
    assert not torch.equal(drawn(Loader.of(data, "train", 5, seed=4, **options), 0), first)


def test_what_is_read_into_memory_draws_the_same_each_time() -> None:
    before = states()
    once, again = (opened("draws", stream=False).train.images for _ in range(2))
    assert states() == before
    assert torch.equal(once, again)
    assert len(once[:, :, 0, 0].unique(dim=0)) == 12


def test_what_is_no_dataset_gets_one_line() -> None:
    with pytest.raises(SteppeError, match=r"mapping of train and test; got Squares"):
        opened("one")
    with pytest.raises(SteppeError, match=r"uint8 tensors .c, h, w.; got Tensor"):
        opened("floats")
    with pytest.raises(SteppeError, match="has no nothing"):
        opened("nothing")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("function", ["runtime", "system", "key", "ended", "doubts"])
def test_an_error_of_an_item_is_one_line_that_names_it(function: str, workers: int) -> None:
    data = opened(function, stream=True)
    with pytest.raises(
        SteppeError, match=r"item 9 of train of own_squares.*own_squares\.py"
    ) as one:
        list(Loader.of(data, "train", 4, workers=workers).epoch(0))
    assert "\n" not in str(one.value)
    assert "item of mine" in str(one.value)
    assert "worker" not in str(one.value), "none died"


@pytest.mark.parametrize("workers", [0, 1])
def test_memory_that_is_too_small_is_no_fault_of_an_item(workers: int) -> None:
    with pytest.raises(MemoryError, match="item of mine"):
        list(Loader.of(opened("memory", stream=True), "train", 4, workers=workers).epoch(0))
    with pytest.raises(MemoryError):
        opened("memory", stream=False)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "place", ["vision.augment.flip.Flip.__call__", "vision.data.decode._on_background"]
)
def test_a_fault_of_ours_is_told_as_such(
    place: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its traceback, and not as an item that must be mended."""
    data = opened("pictures", stream=True, augment=["random_resized_crop", "flip"])
    file = Path(steppe.__file__).parent / "of_ours.py"  # where the line would lie
    made: dict[str, Any] = {}
    exec(compile("def broken(*_):\n    assert not 'of steppe'\n", str(file), "exec"), made)
    monkeypatch.setattr(f"steppe.{place}", made["broken"])
    with pytest.raises(AssertionError):
        list(Loader.of(data, "train", 4, workers=workers).epoch(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_step_that_frames_names_the_image(workers: int) -> None:
    class Broken(RandomResizedCrop):
        def frame(self, width: int, *others: Any) -> Any:
            assert width != 35, "no such box"
            return super().frame(width, *others)

    data = opened("pictures", stream=True, augment=[Broken()])
    with pytest.raises(SteppeError, match=r"item 5 of train .*no such box.*test_user\.py"):
        list(Loader.of(data, "train", 4, workers=workers).epoch(0))


def test_an_error_of_an_item_is_named_wherever_it_is_read() -> None:
    with pytest.raises(SteppeError, match="item 9 of train of own_squares"):
        opened("runtime", stream=False)
    with pytest.raises(SteppeError, match="item 9 of train of own_squares"):
        opened("unlabelled")


def test_a_dataset_that_ends_its_worker_is_told_as_a_dead_worker() -> None:
    with pytest.raises(SteppeError, match="worker processes must live"):
        list(Loader.of(opened("leaves", stream=True), "train", 4, workers=1).epoch(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_transform_names_the_image(workers: int) -> None:
    def broken(image: Image.Image) -> Image.Image:
        if image.width == 35:
            raise RuntimeError("no such crop")
        return image.resize((16, 16))

    data = opened("pictures", stream=True, augment=[{"transform": {"function": broken}}])
    with pytest.raises(SteppeError, match=r"item 5 of train .*no such crop.*test_user\.py"):
        list(Loader.of(data, "train", 4, workers=workers).epoch(0))


def test_an_image_stays_as_its_owner_has_it() -> None:
    image = Image.new("RGB", (4, 4), (1, 2, 3))
    from steppe.vision.data.levels import opened as reopened

    with reopened(image) as copied:
        copied.paste((9, 9, 9), (0, 0, 4, 4))
    assert image.getpixel((0, 0)) == (1, 2, 3)
