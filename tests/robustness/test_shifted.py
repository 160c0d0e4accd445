"""Accuracy on new images of the same classes, beside a hand computation."""

import pytest
import torch
from PIL import Image
from torch import nn

from steppe.core.errors import SteppeError
from steppe.robustness.shifted import accuracy_under_shift

FOLDERS = {
    "matched-frequency": "imagenetv2-matched-frequency-format-val",
    "threshold-0.7": "imagenetv2-threshold0.7-format-val",
    "top-images": "imagenetv2-top-images-format-val",
}
CLASSES = 12  # so that order by name is not order by number


class Fixed(nn.Module):
    """A linear map of the means of the quarters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.pool, self.head = nn.AdaptiveAvgPool2d(2), nn.Linear(12, CLASSES)

    def forward(self, x):
        return self.head((self.pool(x).flatten(1) - 0.5) * 100)


def images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)


def publish(folder, model, seed, wrong=2):
    """Images whose labels are the network's answers, but for ``wrong`` of them; the share right."""
    pixels = images(40, seed)
    guess = model(pixels.float() / 255).argmax(1)
    guess[:wrong] = (guess[:wrong] + 1) % CLASSES
    guess[-CLASSES:] = torch.arange(CLASSES)
    for i, (image, label) in enumerate(zip(pixels, guess.tolist(), strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / str(label) / f"{i}.png")
    return float((model(pixels.float() / 255).argmax(1) == guess).float().mean())


@torch.no_grad()
def test_every_variant_by_hand_and_in_any_batch(tmp_path):
    model = Fixed()
    expected = {
        name: publish(tmp_path / folder, model, seed, 3 * seed)
        for seed, (name, folder) in enumerate(FOLDERS.items())
    }
    x = images(20, 9).float() / 255
    y = model(x).argmax(1)
    y[:5] = (y[:5] + 1) % CLASSES
    result = accuracy_under_shift(model, x, y, shifted=tmp_path)
    assert result["variants"] == pytest.approx(expected)
    assert len(set(expected.values())) == 3
    assert result["clean"] == pytest.approx(0.75)
    # one R_V2 for each variant, matched-frequency first; never a mean of all
    assert result["r_v2"] == pytest.approx({n: share / 0.75 for n, share in expected.items()})
    assert list(result["r_v2"]) == list(FOLDERS)
    assert not {"mean", "relative"} & set(result)
    assert result["images"] == {"clean": 20} | dict.fromkeys(FOLDERS, 40)
    for batch in (1, 7):
        assert accuracy_under_shift(model, x, y, shifted=tmp_path, batch_size=batch) == result
    name = "threshold-0.7"
    one = accuracy_under_shift(model, x, y, shifted=tmp_path / FOLDERS[name])
    assert one["variants"] == pytest.approx({name: expected[name]})
    (tmp_path / "v2-top-images").symlink_to(tmp_path / FOLDERS["top-images"])
    with pytest.raises(SteppeError, match="each variant of a published set is there once"):
        accuracy_under_shift(model, x, y, shifted=tmp_path)


@torch.no_grad()
def test_sets_that_are_not_those_of_the_network(tmp_path):
    model = Fixed()
    publish(tmp_path / "v", model, 0)
    x, y = images(5, 9).float() / 255, torch.zeros(5).long()

    def fails(match):
        with pytest.raises(SteppeError, match=match):
            accuracy_under_shift(model, x, y, shifted=tmp_path / "v")

    (tmp_path / "v/12").mkdir()
    fails("network's 12 classes, 0 to 11; got 0 to 12")
    (tmp_path / "v/12").rmdir()
    (tmp_path / "v/11").rename(tmp_path / "11")
    fails("1 missing in .*: 11")
    (tmp_path / "v/11").mkdir()
    fails("none in .*11")
    (tmp_path / "v/11/broken.JPEG").write_bytes(b"\xff\xd8")
    fails(r"broken\.JPEG")
    with pytest.raises(SteppeError, match="0 images, 0 labels"):
        accuracy_under_shift(model, x[:0], y[:0], shifted=tmp_path / "v")
