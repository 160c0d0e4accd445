import numpy as np
import pytest

from steppe.core.errors import SteppeError
from steppe.vision.data import load


@pytest.fixture
def folder(tmp_path, png):
    """Two classes, images whose value tells which they are."""
    for part, values in (("train", (10, 11, 20, 21)), ("test", (12, 22))):
        for value in values:
            place = tmp_path / part / ("cat" if value < 20 else "dog")
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{value}.png").write_bytes(png(np.full((6, 6, 3), value)))
    return tmp_path


def test_classes_are_numbered_by_name(folder):
    (folder / "train" / ".hidden").mkdir()
    (folder / "train" / "cat" / "notes.txt").write_text("no image")
    data = load(str(folder))
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [10, 11, 20, 21]
    assert data.test.images[:, 0, 0, 0].tolist() == [12, 22]


def test_val_stands_in_for_test(folder):
    (folder / "test").rename(folder / "val")
    assert len(load(str(folder)).test) == 2


def test_images_are_brought_to_one_size_when_asked(folder, png):
    (folder / "train" / "cat" / "10.png").write_bytes(png(np.full((9, 12, 3), 10)))
    with pytest.raises(SteppeError, match=r"one size; got 6 x 6.*Way out: give size=32"):
        load(str(folder))
    data = load(str(folder), size=4)
    assert data.shape == (3, 4, 4)
    assert data.train.images[:, 0, 0, 0].tolist() == [10, 11, 20, 21]


def test_the_cache_sees_a_changed_image(folder, png, tmp_path):
    load(str(folder), cache=tmp_path / "cache")
    (folder / "train" / "cat" / "10.png").write_bytes(png(np.full((6, 6, 3), 99)))
    data = load(str(folder), cache=tmp_path / "cache")
    assert int(data.train.images[0].max()) == 99


def test_errors(folder, tmp_path):
    (folder / "test" / "owl").mkdir()
    with pytest.raises(SteppeError, match=r"classes in test must be in train too; got .*owl"):
        load(str(folder))
    (folder / "test" / "owl").rmdir()
    (folder / "train" / "dog" / "20.png").write_bytes(b"junk")
    with pytest.raises(SteppeError, match=r"PIL can decode; got .*20.png"):
        load(str(folder))
    for file in (folder / "train").rglob("*.png"):
        file.unlink()
    with pytest.raises(SteppeError, match="must have images"):
        load(str(folder))
    (folder / "test").rename(folder / "else")
    with pytest.raises(SteppeError, match=r"needs train/<class>/ and test/<class>/"):
        load(str(folder))


def test_train_and_test_must_have_one_shape(folder, png):
    for value, place in ((12, "cat"), (22, "dog")):
        (folder / "test" / place / f"{value}.png").write_bytes(png(np.full((6, 6), value)))
    with pytest.raises(SteppeError, match=r"one shape; got \(3, 6, 6\) and \(1, 6, 6\)"):
        load(str(folder))
