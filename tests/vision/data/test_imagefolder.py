import re

import numpy as np
import pytest

from steppe.core.errors import SteppeError
from steppe.vision.data import load


@pytest.fixture
def folder(tmp_path, png):
    """Two classes, images whose value tells which they are."""
    for part, values in (("train", (10, 11, 20, 21)), ("test", (12, 22))):
        for value in values:
            place = tmp_path / "images" / part / ("cat" if value < 20 else "dog")
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{value}.png").write_bytes(png(np.full((6, 6, 3), value)))
    return tmp_path / "images"


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


def test_a_folder_without_a_split_says_what_makes_it_whole(folder):
    for given in (folder / "train", folder.parent):
        with pytest.raises(SteppeError, match=re.escape(f"Way out: give {folder}")):
            load(str(given))
    (folder / "test").rename(folder / "else")
    with pytest.raises(SteppeError, match=r"valid/ or val/.*to test on.* into .*val/<class>/$"):
        load(str(folder))
    with pytest.raises(SteppeError, match=r"to test on.* into .*val/<class>/; give \S+"):
        load(str(folder / "train"))
    (folder / "train").rename(folder / "all")
    with pytest.raises(SteppeError, match=r"Way out: put the folders of the classes into train/"):
        load(str(folder / "all"))


def test_train_and_test_must_have_one_shape(folder, png):
    for value, place in ((12, "cat"), (22, "dog")):
        (folder / "test" / place / f"{value}.png").write_bytes(png(np.full((5, 5, 3), value)))
    with pytest.raises(SteppeError, match=r"one shape; got \(3, 6, 6\) and \(3, 5, 5\).*size=32"):
        load(str(folder))


def test_grey_test_images_beside_coloured_ones_are_read_in_colour(folder, png):
    for value, place in ((12, "cat"), (22, "dog")):
        (folder / "test" / place / f"{value}.png").write_bytes(png(np.full((6, 6), value)))
    with pytest.warns(UserWarning, match="test: grey images are read with three channels"):
        data = load(str(folder))
    assert data.test.images[:, :, 0, 0].tolist() == [[12] * 3, [22] * 3]
    # the other way round a colour would be lost, and the way out that is named works
    for path in (folder / "train").rglob("*.png"):
        path.write_bytes(png(np.full((6, 6), int(path.stem))))
    (folder / "test" / "cat" / "12.png").write_bytes(png(np.full((6, 6, 3), 12)))
    with pytest.raises(SteppeError, match=r"all be grey .*Way out: channels=3 \(data.channels"):
        load(str(folder))
    for channels in (1, 3):
        assert load(str(folder), channels=channels).shape == (channels, 6, 6)


def left_out(folder):
    said = []
    data = load(str(folder), say=said.append)
    assert data.notes == tuple(said)
    return data, said


def test_what_is_no_image_of_the_dataset_is_said_with_counts(folder, png):
    image = png(np.full((6, 6, 3), 10))
    for name in (
        "train/cat/.ipynb_checkpoints/10-checkpoint.png",
        "train/__MACOSX/cat/._10.png",
        "train/cat/._10.png",
        "train/cat/11.heic",
        "train/cat/12.HEIC",
        "train/Thumbs.db",
        "train/alone.png",
        "train/dog/deeper/23.JPG",
        "val/cat/13.png",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image)
    data, said = left_out(folder)
    assert data.classes == ("cat", "dog")
    assert data.train.labels.bincount().tolist() == [2, 3]
    assert said == [
        "train/: left out: 2 files of kind .heic, 1 file of kind .db, 1 file in __MACOSX, 1 file "
        "outside of the class folders, 1 file hidden (.*.png), 1 file in .ipynb_checkpoints",
        "train/: 1 image lies deeper than their class's folder (dog/deeper)",
        "test/ is what is tested on: val/ left out",
    ]


def test_classes_without_images_are_said(folder):
    (folder / "train" / "bird").mkdir()
    for path in (folder / "train" / "cat").glob("*.png"):
        path.rename(path.with_suffix(".heic"))
    (folder / "test" / "dog" / "22.png").unlink()
    data, said = left_out(folder)
    assert data.train.labels.tolist() == [2, 2]
    assert said == [
        "train/: left out: 2 files of kind .heic",
        "train: no image of 2 of 3 classes: bird, cat",
        "test: no image of 2 of 3 classes: bird, dog",
    ]


def test_of_several_configurations_one_must_be_given(folder):
    (folder / "large").mkdir()
    for part in ("train", "test"):
        (folder / part).rename(folder / "large" / part)
    with pytest.raises(SteppeError, match=r"Way out: give .*large") as refused:
        load(str(folder))
    assert load(refused.value.way_out.removeprefix("give ")).classes == ("cat", "dog")


def test_folders_below_a_class_are_said(folder):
    (folder / "train" / "cat" / "tabby").mkdir()
    for path in list((folder / "train" / "cat").glob("*.png")):
        path.rename(path.parent / "tabby" / path.name)
    data = load(str(folder))
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.notes == ("train/: 2 images lie deeper than their class's folder (cat/tabby)",)
