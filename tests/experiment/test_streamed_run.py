"""``steppe train`` on images that stay on disk, killed, resumed, and measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import steppe
from photographs import draw
from steppe.cli.main import main
from steppe.core.errors import SteppeError
from steppe.core.serialization import load_tensors
from steppe.experiment.image_run import ImageRun
from steppe.robustness.corrupted import accuracy_under_corruption
from steppe.robustness.shifted import accuracy_under_shift
from steppe.vision.data.base import StreamedSplit
from steppe.vision.loader import Loader


def recipe(folder: Path, **train: Any) -> dict[str, Any]:
    return {
        "model": {"name": "small-cnn", "options": {"channels": [4, 8, 8]}},
        "data": {
            "name": str(folder),
            "size": 24,
            "resize": 28,
            "stream": True,
            "workers": 1,
            "augment": ["random_resized_crop", "flip", {"mixup": {"alpha": 0.2}}],
        },
        "method": {"name": "gmp", "sparsity": 0.5},
        "train": {
            "epochs": 3,
            "batch_size": 8,
            "lr": 0.05,
            "checkpoint_steps": 2,
            "bn_batches": 2,
            "label_smoothing": 0.1,
            "accumulate": 1,
            "warmup_epochs": 1,
            **train,
        },
        "device": "cpu",
    }


def weights(run: Path) -> dict[str, Tensor]:
    return load_tensors(run / "model.safetensors")


@pytest.fixture(scope="module")
def whole(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("run") / "whole"
    steppe.train(recipe(photographs), out)
    return out


def test_killed_in_mid_epoch_and_resumed_it_ends_with_the_same_bits(
    photographs: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = Loader.epoch

    def dying(self: Loader, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for i, batch in enumerate(epoch(self, number, start), start):
            if self.shuffle and (number, i) == (1, 3):
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patched:
        patched.setattr(Loader, "epoch", dying)
        with pytest.raises(KeyboardInterrupt):
            steppe.train(recipe(photographs), tmp_path)
    begun: list[tuple[int, int]] = []

    def counting(self: Loader, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        begun.append((number, start)) if self.shuffle else None
        return epoch(self, number, start)

    monkeypatch.setattr(Loader, "epoch", counting)
    again = recipe(photographs)
    again["data"]["workers"] = 0  # another machine has other cores
    record = steppe.train(again, tmp_path)
    assert (1, 2) in begun, "it goes on from the checkpoint after two steps of the second epoch"
    assert "resumed after step 7 of 15" in record["notes"]
    theirs = weights(tmp_path)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, theirs[name]), name
    assert (whole / "metrics.jsonl").read_text() == (tmp_path / "metrics.jsonl").read_text()


def test_a_run_goes_on_with_another_number_of_workers_but_no_other_images(
    photographs: Path, whole: Path
) -> None:
    other = recipe(photographs)
    other["data"]["workers"] = 3
    assert steppe.train(other, whole)["sparsity_reached"] == pytest.approx(0.5, abs=0.01)
    other["data"]["resize"] = 26
    with pytest.raises(SteppeError, match=r"differs in data\.resize"):
        steppe.train(other, whole)


def test_the_images_of_a_run_are_streamed_when_it_is_measured(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ImageRun.read(str(whole), "cpu", "clean")
    assert isinstance(run.data.test, StreamedSplit)
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(whole), "--on", "clean", "--json", "--quiet"])
    found = json.loads(capsys.readouterr().out)
    record = json.loads((whole / "record.json").read_text())
    assert found["accuracy"] == record["sparse"]["accuracy"]
    x, y = run.pixels("test", 5)
    shown, labels = next(run.loader("test", 5).epoch(0))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (run.data.mean, run.data.std))
    torch.testing.assert_close((x - mean) / std, shown)
    assert torch.equal(y, labels)


def test_corruptions_are_made_of_streamed_images(whole: Path) -> None:
    run = ImageRun.read(str(whole), "cpu", "corruptions")
    ask: dict[str, Any] = {"names": ["contrast"], "severities": [1, 5], "batch_size": 5}
    lazily = accuracy_under_corruption(run.on_pixels, run.images("test"), **ask)
    assert lazily == accuracy_under_corruption(run.on_pixels, *run.pixels("test"), **ask)
    assert lazily["images"] == 12


def test_published_images_are_scaled_and_cut_as_the_runs_own(whole: Path, tmp_path: Path) -> None:
    """ImageNet-V2 as the validation images; what has the network's size stays as it is."""
    draw(tmp_path / "first", 8, 4, (60, 48), 2)
    for i in range(4):
        (tmp_path / "first" / f"class{i:02}").rename(tmp_path / str(i))
    run = ImageRun.read(str(whole), "cpu", "shifted")
    fit = run.fit
    assert fit is not None
    image = Image.open(min((tmp_path / "0").iterdir())).convert("RGB")
    (width, height), ratio = image.size, 28 / min(image.size)
    scaled = image.resize(
        (round(int(width * ratio)), round(int(height * ratio))), Image.Resampling.BILINEAR
    )
    left, top = (round((side - 24) / 2) for side in scaled.size)
    cut = scaled.crop((left, top, left + 24, top + 24))
    gap = (pixels(fit(image)) - pixels(cut)).abs().max()
    assert gap <= 1, "one step or two differ by the rounding of a level"
    seen: list[Tensor] = []
    model = run.on_pixels
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    (tmp_path / "first").rmdir()
    accuracy_under_shift(model, run.images("test"), shifted=tmp_path, fit=fit)
    assert any(torch.equal(part[0], pixels(fit(image)) / 255) for part in seen)


def pixels(image: Image.Image) -> Tensor:
    levels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return levels.view(image.height, image.width, 3).permute(2, 0, 1).float()
