"""Published sets in each layout: found, read as they are stored, refused where not whole."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from steppe.core.errors import SteppeError
from steppe.robustness.corrupted import accuracy_under_corruption
from steppe.robustness.published import PUBLISHED, accuracy_on, published
from steppe.robustness.shifted import accuracy_under_shift

CLASSES, EACH = 3, 4
SHAPE = (3, 16, 16)


class Brightest(nn.Module):
    """The channel that is largest on average."""

    def forward(self, x):
        return x.mean((2, 3))


def numbers(*key):
    seed = torch.Generator().manual_seed(sum(map(ord, "/".join(map(str, key)))))
    size = (EACH, 16, 16, 3)
    return torch.randint(256, size, generator=seed, dtype=torch.uint8).numpy()


def save(folder, images, suffix="png"):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.{suffix}")


def imagenet_c(folder, group="", names=("fog", "snow"), severities=(1, 2, 3, 4, 5)):
    for name in names:
        for severity in severities:
            for k in range(CLASSES):
                key = (name, severity, k)
                save(folder / group / name / str(severity) / f"n0{9 - CLASSES + k}", numbers(*key))
    return folder


def by_hand(arrays):
    """Share of right answers; the arrays' places are their labels."""
    right = [
        (torch.from_numpy(a).double().mean((1, 2)).argmax(1) == k).float()
        for k, a in enumerate(arrays)
    ]
    return float(torch.cat(right).mean())


def clean():
    x = torch.rand(10, *SHAPE, generator=torch.Generator().manual_seed(0))
    return x, x.mean((2, 3)).argmax(1)


@pytest.mark.parametrize("group", ["", "weather"])
@pytest.mark.parametrize("batch", [1, 5, 500])
def test_imagenet_c_by_hand_in_any_batch(group, batch, tmp_path):
    folder = imagenet_c(tmp_path / "c", group)
    result = accuracy_under_corruption(
        Brightest(), *clean(), names=["fog", "snow"], severities=[2, 5], published=folder,
        batch_size=batch,
    )  # fmt: skip
    assert result["source"] == str(folder)
    assert result["clean"] == 1.0
    assert (result["images"], result["clean_images"]) == (4 * CLASSES, 10)
    for name in ("fog", "snow"):
        for severity in (2, 5):
            expected = by_hand([numbers(name, severity, k) for k in range(CLASSES)])
            assert result["accuracy"][name][str(severity)] == pytest.approx(expected)
            assert 0 < expected < 1
    shares = [share for own in result["accuracy"].values() for share in own.values()]
    assert result["mean_run"] == pytest.approx(sum(shares) / 4)


def test_imagenet_c_is_read_in_batches_only(tmp_path, monkeypatch):
    folder = imagenet_c(tmp_path / "c", names=["fog"], severities=[1])
    part = published(folder, "corruptions").images("fog", SHAPE, 1)
    opened = []
    own = Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path) or own(path))
    images = part.read(slice(3, 6))
    assert len(opened) == 3
    assert part.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    stored = np.concatenate([numbers("fog", 1, 0)[3:], numbers("fog", 1, 1)[:2]])
    assert torch.equal(images, torch.from_numpy(stored).permute(0, 3, 1, 2).float() / 255)


def test_what_lacks_in_imagenet_c_is_named(tmp_path):
    folder = imagenet_c(tmp_path / "c", severities=[1, 2])
    ask = {"names": ["fog", "snow"], "severities": [1, 2], "published": folder}

    def fails(match, **more):
        with pytest.raises(SteppeError, match=match) as error:
            accuracy_under_corruption(Brightest(), *clean(), **ask | more)
        assert "\n" not in str(error.value)

    fails(r"no frost, fog/3, snow/3 in .*--corruptions", names=["fog", "frost", "snow"],
          severities=[1, 3])  # fmt: skip
    (folder / "snow/2/n08/0.png").write_bytes(b"no image")
    fails(r"decoded; got .*snow.2.n08.0\.png")
    for file in (folder / "snow/2/n08").iterdir():
        file.unlink()
    fails(r"holds images; got none in .*snow.2.n08")
    (folder / "snow/2/n08").rmdir()
    fails(r"no snow/2/n08 in")
    fails("2 class folders in .* of 3 classes", names=["snow"], severities=[2])


def shift(folder, names, suffix="png"):
    for name in names:
        for k in range(CLASSES):
            save(folder / name / str(k), numbers(name, k), suffix)
    return folder


def test_images_of_another_size_are_scaled_and_their_middle_taken(tmp_path):
    wide = np.zeros((8, 16, 3), dtype=np.uint8)
    wide[:, 4:12] = [[[200, 100, 50]]]
    for k in range(CLASSES):
        save(tmp_path / "v" / str(k), [wide])
    layout = published(tmp_path / "v", "shifted")
    whole = layout.images("v", (3, 4, 4)).read(slice(0, 1))
    assert torch.equal(whole[0, :, 1, 1], torch.tensor([200.0, 100.0, 50.0]) / 255)
    assert whole.shape == (1, 3, 4, 4)
    grey = layout.images("v", (1, 4, 4)).read(slice(0, 3))
    level = np.asarray(Image.fromarray(wide).convert("L"))[0, 8]
    assert torch.equal(grey[:, :, 1:3, 1:3], torch.full((3, 1, 2, 2), float(level)) / 255)


def test_cifar_c_of_another_size(tmp_path):
    for name, array in (("fog", numbers("a").repeat(5, 0)), ("labels", np.arange(EACH) % 2)):
        np.save(tmp_path / f"{name}.npy", array)
    part = published(tmp_path, "corruptions").images("fog", (3, 8, 8), 2)
    assert part.read(slice(1, 3)).shape == (2, 3, 8, 8)
    assert part.labels.tolist() == [0, 1, 0, 1]


def test_each_layout_takes_its_own_folder_only(tmp_path):
    (tmp_path / "empty").mkdir()
    imagenet_c(tmp_path / "c")
    shift(tmp_path / "v", ["one", "two"])
    (tmp_path / "cifar").mkdir()
    np.save(tmp_path / "cifar/labels.npy", np.zeros(3))
    own = {"cifar_c": ["cifar"], "imagenet_c": ["c"], "imagenet_v2": ["v", "v/one"]}
    places = ["empty", "cifar", "c", "v", "v/one"]
    assert {n: [p for p in places if PUBLISHED[n].matches(tmp_path / p)] for n in PUBLISHED} == own
    assert published(tmp_path / "c", "corruptions").variants() == ["fog", "snow"]
    assert published(tmp_path / "cifar", "corruptions").variants() == []
    with pytest.raises(SteppeError, match=r"labels\.npy .*holds nothing.*unpack"):
        published(tmp_path / "empty", "corruptions")
    with pytest.raises(SteppeError, match="Way out: --on corruptions"):
        published(tmp_path / "c", "shifted")
    with pytest.raises(SteppeError, match="Way out: --on shifted"):
        published(tmp_path / "v", "corruptions")
    for wrong in (tmp_path / "absent", tmp_path / "cifar/labels.npy", "absent"):
        with pytest.raises(SteppeError, match=r"folder, or a dataset id .*check the path"):
            published(wrong, "shifted")


def test_an_id_is_fetched_and_read_by_the_same_layouts(tmp_path, monkeypatch):
    import huggingface_hub

    folder, asked = shift(tmp_path / "3f2a", ["."]), []

    def download(name, **more):
        asked.append((name, more))
        return str(folder)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    result = accuracy_under_shift(Brightest(), *clean(), shifted="owner/new")
    assert result["variants"] == pytest.approx(
        {"new": by_hand([numbers(".", k) for k in range(CLASSES)])}
    )
    (asked_name, how), = asked  # fmt: skip
    assert (asked_name, how["repo_type"]) == ("owner/new", "dataset")
    assert "*.JPEG" in how["allow_patterns"]
    assert "*.npy" not in how["allow_patterns"]

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(SteppeError, match=r"'owner/new' \(OSError\).*the network"):
        published("owner/new", "shifted")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SteppeError, match="pip install huggingface_hub"):
        published("owner/new", "shifted")
    assert Path("3f2a").is_dir()
    published("3f2a", "shifted")


def test_labels_beyond_the_network():
    from steppe.robustness.published import LabelledImages

    images = LabelledImages(torch.tensor([0, 3]), lambda chosen: torch.zeros(2, *SHAPE)[chosen])
    with pytest.raises(SteppeError, match="0 to 2; got 0 to 3"):
        accuracy_on(Brightest(), images, 2)
