"""Accuracy on corrupted images, made here and published."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.robustness.corrupted import accuracy_under_corruption, parse_selection
from steppe.robustness.corruptions import corrupt


class Brightest(nn.Module):
    """The channel that is largest on average."""

    def forward(self, x):
        return x.mean((2, 3))


def data(count=30):
    x = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.98
    return x, x.mean((2, 3)).argmax(1)


def test_accuracies_and_means_by_hand():
    x, y = data()
    names = ["fog", "saturate", "shot_noise"]
    result = accuracy_under_corruption(
        Brightest(), x, y, names=names, severities=[2, 5], batch_size=7, seed=1
    )
    expected = {
        name: {
            str(s): float((corrupt(x, name, s, seed=1).mean((2, 3)).argmax(1) == y).float().mean())
            for s in (2, 5)
        }
        for name in names
    }
    for name in names:
        assert result["accuracy"][name] == pytest.approx(expected[name])
    usual = [v for name in ("fog", "shot_noise") for v in expected[name].values()]
    assert result["clean"] == 1.0
    everything = [*usual, *expected["saturate"].values()]
    assert result["mean_run"] == pytest.approx(np.mean(everything))
    # two of the 15 and one of the 4: no R_C, and no mean that is called by a number of kinds
    assert not [key for key in result if "r_c" in key or key in ("mean", "relative", "mean_15")]
    assert (result["kinds"], result["severities"]) == (3, [2, 5])


class Dimmest(Brightest):
    """Right where the other is right, but for every third image."""

    def forward(self, x):
        out = super().forward(x)
        return torch.where((x[:, 0, 0, :1] * 100).int() % 3 == 0, -out, out)


def test_a_reference_sees_the_same_images():
    x, y = data()
    names = ["fog", "shot_noise"]
    result = accuracy_under_corruption(
        Brightest(), x, y, names=names, severities=[2, 5], reference=Dimmest(), batch_size=7
    )
    alone = accuracy_under_corruption(Dimmest(), x, y, names=names, severities=[2, 5])
    assert result["beside"]["accuracy"] == alone["accuracy"]
    assert result["beside"]["clean"] == alone["clean"] < result["clean"]
    errors = {n: sum(1 - v for v in result["accuracy"][n].values()) for n in names}
    theirs = {n: sum(1 - v for v in alone["accuracy"][n].values()) for n in names}
    expected = np.mean([errors[n] / theirs[n] for n in names])
    assert result["beside"]["mce_run"] == pytest.approx(expected)


def test_grey_images():
    x = torch.rand(4, 1, 8, 8)
    shapes = []

    class Net(nn.Module):
        def forward(self, x):
            shapes.append(tuple(x.shape))
            return torch.zeros(len(x), 2)

    result = accuracy_under_corruption(Net(), x, torch.zeros(4).long(), severities=[1])
    assert len(result["accuracy"]) == 19
    assert {"r_c_15", "r_c_19"} <= set(result)
    assert set(shapes) == {(4, 1, 8, 8)}


def publish(folder: Path, x, y, names, labels=None):
    folder.mkdir()
    for name in names:
        parts = [corrupt(x, name, s, seed=9) for s in range(1, 6)]
        whole = (torch.cat(parts) * 255).byte().permute(0, 2, 3, 1).numpy()
        np.save(folder / f"{name}.npy", whole)
    np.save(folder / "labels.npy", np.tile(y.numpy(), 5) if labels is None else labels)
    return folder


@pytest.mark.parametrize("times", [1, 5])
def test_published_images_take_precedence(times, tmp_path):
    x, y = data()
    names = ["fog", "gaussian_noise"]
    folder = publish(tmp_path / "c", x, y, names, np.tile(y.numpy(), times))
    result = accuracy_under_corruption(
        Brightest(), x, y, names=names, severities=[4], published=folder
    )
    assert result["source"] == str(folder)
    for name in names:
        eight = (corrupt(x, name, 4, seed=9) * 255).byte()
        share = (eight.float().mean((2, 3)).argmax(1) == y).float().mean()
        assert result["accuracy"][name]["4"] == pytest.approx(float(share))


def test_published_sets_that_are_not_whole(tmp_path):
    x, y = data(5)
    folder = publish(tmp_path / "c", x, y, ["fog"])
    ask = {"severities": [1], "published": folder}
    with pytest.raises(SteppeError, match=r"no snow\.npy in .*--corruptions"):
        accuracy_under_corruption(Brightest(), x, y, names=["fog", "snow"], **ask)
    np.save(folder / "snow.npy", np.zeros((7, 16, 16, 3), dtype=np.uint8))
    with pytest.raises(SteppeError, match="five severities"):
        accuracy_under_corruption(Brightest(), x, y, names=["snow"], **ask)
    np.save(folder / "labels.npy", np.arange(5))
    with pytest.raises(SteppeError, match="network's 3 classes, 0 to 2; got 0 to 4"):
        accuracy_under_corruption(Brightest(), x, y, names=["fog"], **ask)
    np.save(folder / "labels.npy", y.numpy())
    (folder / "snow.npy").write_bytes(b"no array")
    with pytest.raises(SteppeError, match=r"readable NumPy files.*snow\.npy"):
        accuracy_under_corruption(Brightest(), x, y, names=["snow"], **ask)


def test_names_and_severities_from_text():
    assert parse_selection(None, "1,5")[1] == [1, 5]
    assert len(parse_selection(None, "1")[0]) == 19
    with pytest.raises(SteppeError, match="did you mean snow"):
        parse_selection("snw", "1")
    with pytest.raises(SteppeError, match="severities are 1 to 5"):
        parse_selection(None, "0")
    with pytest.raises(SteppeError, match="0 images"):
        accuracy_under_corruption(Brightest(), torch.zeros(0, 3, 8, 8), torch.zeros(0))
