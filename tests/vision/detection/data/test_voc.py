"""Pascal VOC folders: what is read, and that everything wrong in one is told in a line."""

import re

import pytest
import torch
from PIL import Image

import voc_folder
from steppe import SteppeError
from steppe.vision.detection.data import load


def read(root, **options):
    said = []
    data = load(f"voc:{root}", say=said.append, **options)
    return data, said


@pytest.fixture
def root(tmp_path):
    return voc_folder.write(tmp_path / "voc")


def rewritten(root, stem, objects, size=voc_folder.SIZE):
    text = voc_folder.annotation(stem, objects, size)
    (root / "Annotations" / f"{stem}.xml").write_text(text)


def test_boxes_are_counted_from_1_with_both_ends_inside(root):
    rewritten(root, "000000", [("square", 1, 1, 96, 80, 0), ("bar", 25, 41, 48, 60, 1)])
    data, _ = read(root)
    assert data.classes == ("bar", "square")
    wanted = [[0, 0, 1, 1, 1, 0], [0.25, 0.5, 0.5, 0.75, 0, 1]]
    torch.testing.assert_close(data.train.scenes[0].objects, torch.tensor(wanted))


def test_splits_by_name_and_the_usual_ones(root):
    data, said = read(root)
    assert (len(data.train), len(data.test), data.validation) == (8, 4, None)
    assert said == ["trained on trainval, tested on test"]
    other, _ = read(root, train_split="test", test_split="trainval")
    assert (len(other.train), len(other.test)) == (4, 8)


def test_several_folders_are_read_as_one(root, tmp_path):
    second = voc_folder.write(tmp_path / "second", train=3, test=2)
    (second / "ImageSets/Main/test.txt").unlink()
    data, notes = read(f"{root},{second}")
    assert (len(data.train), len(data.test)) == (11, 4)
    assert f"{second} has no test.txt: none of it is tested on" in notes
    main = second / "ImageSets/Main"
    (main / "trainval.txt").rename(main / "train.txt")  # read where no folder has trainval
    with pytest.raises(SteppeError, match=r"second, which has neither trainval.txt nor test.txt"):
        read(f"{root},{second}")
    (main / "train.txt").rename(main / "test.txt")
    data, notes = read(f"{root},{second}")
    assert (len(data.train), len(data.test)) == (8, 7)
    assert f"{second} has no trainval.txt: none of it is trained on" in notes


def test_a_folder_is_known_by_its_layout(root):
    assert load(str(root), say=str).classes == ("bar", "square")


def test_images_are_held_out_and_drawn_by_the_seed(root):
    data, _ = read(root, validation=0.25, test_size=2)
    parts = [{s.where for s in part} for part in (data.train, data.validation)]
    assert [len(part) for part in parts] == [6, 2]
    assert not parts[0] & parts[1]
    assert len(data.test) == 2
    with pytest.raises(SteppeError, match=r"got validation=0\.05 of 8\. Way out.*validation=1"):
        read(root, validation=0.05)
    again, _ = read(root, validation=2, test_size=2)
    assert {s.where for s in again.validation} == parts[1]
    assert {s.where for s in read(root, validation=2, seed=1)[0].validation} != parts[1]


def spoil(root, how):
    """Damage the folder in one way."""
    stem, split = "000001", root / "ImageSets/Main/trainval.txt"
    xml, image = root / "Annotations" / f"{stem}.xml", root / "JPEGImages" / f"{stem}.jpg"
    match how:
        case "image":
            image.unlink()
        case "annotation":
            xml.unlink()
        case "split":
            split.unlink()
        case "empty":
            split.write_text("\n")
        case "xml":
            xml.write_text("<annotation><object>")
        case "other":
            xml.write_text("<image><box label='square'/></image>")
        case "blank":
            xml.write_text("")
        case "no number":
            xml.write_text(re.sub("<xmin>.*?</xmin>", "", xml.read_text(), count=1))
        case "difficult":
            xml.write_text(xml.read_text().replace("<difficult>0", "<difficult>2", 1))
        case "number":
            xml.write_text(xml.read_text().replace("<xmin>", "<xmin>x", 1))
        case "infinite":
            xml.write_text(xml.read_text().replace("<width>96", "<width>inf"))
        case "box":
            xml.write_text(xml.read_text().replace("bndbox>", "box>"))
        case "size":
            Image.new("RGB", (50, 40)).save(image)
        case "truncated":
            image.write_bytes(b"no image")
        case "turned":
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.new("RGB", voc_folder.SIZE).save(image, exif=exif)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("image", "no .*000001.jpg, which .*trainval.txt names"),
        ("annotation", "no .*000001.xml, which .*trainval.txt names"),
        ("split", "no trainval.txt or train.txt .* --set data.train_split=NAME, of test"),
        ("empty", "trainval.txt, which is empty.*--set data.train_split"),
        ("xml", "an annotation must be XML; got .*000001.xml.*take its image out of .*trainval"),
        ("blank", r"an annotation must be XML; got .*000001.xml \(an empty file\)"),
        ("other", "begins with annotation; got .*000001.xml, which begins with image"),
        ("no number", "a number as xmin; got none in object 1 of .*000001.xml"),
        ("difficult", "difficult is 0 or 1; got '2' in object 1 of .*000001.xml"),
        ("number", "a number as xmin; got 'x.*object 1 of .*000001.xml"),
        ("infinite", "a number as width; got .inf. in .*000001.xml"),
        ("box", "an object has a bndbox; got none in object 1 of"),
        ("size", "50 x 40 pixels in .*000001.jpg, annotated as 96 x 80"),
        ("truncated", "one that PIL can decode; got .*000001.jpg"),
        ("turned", "orientation 6 in the EXIF data of .*000001.jpg"),
    ],
)
def test_what_is_wrong_in_a_folder_is_one_line(root, how, said):
    spoil(root, how)
    with pytest.raises(SteppeError, match=said) as refused:
        read(root)
    assert "\n" not in str(refused.value)
    assert "Way out: " in str(refused.value)


BAD = [
    ("square", 10, 10, 10, 30, 0),
    ("square", 10, 10, 98, 30, 0),
    ("", 1, 1, 9, 9, 0),
]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (BAD[0], r"object 2 of .*000002\.xml, without area: xmin 10, ymin 10, xmax 10, ymax 30 "),
        (
            BAD[1],
            r"outside its image: xmin 10, ymin 10, xmax 98, ymax 30 \(counted from 1\) in an ",
        ),
        (BAD[2], r"object 2 of .*000002\.xml, without a class"),
    ],
)
def test_a_bad_object_is_refused_or_left_out_with_a_count(root, bad, said):
    rewritten(root, "000002", [("square", 1, 1, 20, 20, 0), bad])
    with pytest.raises(SteppeError, match=said) as refused:
        read(root)
    assert "--skip-invalid" in str(refused.value)
    assert ("image of 96 x 80 pixels" in str(refused.value)) == (bad is not BAD[2])
    data, notes = read(root, skip_invalid=True)
    assert len(data.train.scenes[2].objects) == 1
    assert any(note.startswith("1 box ") and "000002.xml" in note for note in notes)


@pytest.mark.parametrize(
    ("corners", "wanted"),
    [
        ((10, 10, 97, 30), (9, 9, 96, 30)),
        ((0, 10, 96, 30), (0, 9, 96, 30)),
        ((10.5, 0.2, 96.9, 81), (9.5, 0, 96, 80)),
    ],
)
def test_a_box_beyond_the_image_by_a_hair_is_cut_there_and_counted(root, corners, wanted):
    rewritten(root, "000002", [("square", 1, 1, 20, 20, 0), ("bar", *corners, 1)])
    data, notes = read(root)
    box = torch.tensor([own / side for own, side in zip(wanted, (96, 80) * 2, strict=True)])
    torch.testing.assert_close(data.train.scenes[2].objects[1, :4], box)
    assert len([note for note in notes if note.startswith("1 box at most a pixel outside")]) == 1
    assert "object 2 of" in notes[-1]
    assert "000002.xml" in notes[-1]


@pytest.mark.parametrize("corners", [(-0.1, 10, 30, 30), (10, 10, 97.2, 30), (97, 10, 97, 30)])
def test_one_that_reaches_further_or_has_nothing_left_is_refused(root, corners):
    rewritten(root, "000002", [("square", 1, 1, 20, 20, 0), ("bar", *corners, 0)])
    with pytest.raises(SteppeError, match=r"object 2 of .*000002.xml, (outside|without area)"):
        read(root)


def test_a_class_of_the_test_images_that_was_not_trained_on_is_unknown(root):
    rewritten(root, "000010", [("cat", 1, 1, 20, 20, 0)])
    with pytest.raises(SteppeError, match=r"'cat'.*known classes: bar, square"):
        read(root)
    _, notes = read(root, skip_invalid=True)
    assert "1 box of a class that is not known left out" in notes[1]


def test_a_class_without_an_object_cannot_be_learned(root):
    with pytest.raises(SteppeError, match="none of cat"):
        read(root, classes=("bar", "square", "cat"))
    assert read(root, classes=("square", "bar"))[0].classes == ("square", "bar")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("voc:nowhere", "which is no folder.*--data voc:FOLDER"),
        ("nowhere", "which does not exist.*--data voc:PLACE"),
        ("vco:nowhere", "did you mean voc"),
    ],
)
def test_what_is_no_dataset_is_refused(name, said):
    with pytest.raises(SteppeError, match=said):
        load(name)


def test_more_images_than_there_are_cannot_be_drawn(root):
    with pytest.raises(SteppeError, match="of the 8 images"):
        read(root, train_size=8, validation=2)


def test_the_blood_cells_lack_two_areas(shared):
    folder = shared / "data/bccd"
    if not folder.is_dir():
        pytest.skip("shared/data/bccd is not there")
    with pytest.raises(SteppeError, match="without area"):
        read(folder)
    data, notes = read(folder, skip_invalid=True)
    boxes = sum(len(s.objects) for part in (data.train, data.test) for s in part)
    assert (data.classes, boxes) == (("Platelets", "RBC", "WBC"), 4888 - 2)
    assert notes[1].startswith("2 boxes without area left out")


def test_an_image_is_not_trained_and_tested_on(root):
    """trainval holds val, and a split may be named twice: mean precisions would be too good."""
    main = root / "ImageSets/Main"
    names = (main / "trainval.txt").read_text().split()
    (main / "test.txt").unlink()
    (main / "val.txt").write_text("\n".join(names[:2]) + "\n")
    (main / "train.txt").write_text("\n".join(names[2:]) + "\n")
    with pytest.raises(SteppeError, match="2 of 2 test images"):
        read(root)
    with pytest.raises(SteppeError, match="trained on and tested on"):
        read(root, train_split="trainval", test_split="trainval")
    assert len(read(root, train_split="train", test_split="val")[0].test) == 2


def stems_of(root, split):
    return (root / f"ImageSets/Main/{split}.txt").read_text().split()


@pytest.mark.parametrize("objects", [[], [("square", 1, 1, 20, 20, 1)]])
@pytest.mark.parametrize("part", ["test", "validation"])
def test_measured_images_hold_an_object_that_counts(root, objects, part):
    """Without one a mean precision of 0 would look like a run that has failed."""
    options = {"validation": 2} if part == "validation" else {"test_size": 2}
    kept = [scene.where for scene in getattr(read(root, **options)[0], part)]
    for own in kept:
        rewritten(root, own.rsplit("/", 1)[1].removesuffix(".jpg"), objects)
    what = "2 difficult objects or crowds" if objects else "no object"
    said = f"got {what} in 2 {part} images of voc:.*--set data"
    with pytest.raises(SteppeError, match=said) as refused:
        read(root, **options)
    assert "\n" not in str(refused.value)
    rewritten(root, kept[0].rsplit("/", 1)[1].removesuffix(".jpg"), [("bar", 1, 1, 20, 20, 0)])
    assert len(getattr(read(root, **options)[0], part)) == 2


def test_an_image_is_measured_once_and_trained_on_as_often_as_it_is_named(root):
    splits = [root / f"ImageSets/Main/{split}.txt" for split in ("test", "trainval")]
    texts = [file.read_text() for file in splits]
    for file, text in zip(splits, texts, strict=True):
        file.write_text(text + text.split()[0] + "\n")
    with pytest.raises(SteppeError, match=r"an image is tested on once; got 1 image that"):
        read(root)
    splits[0].write_text(texts[0])
    data, notes = read(root)
    assert len(data.train) == 9
    assert [note for note in notes if "1 image is trained on more than once in an epoch" in note]
    with pytest.raises(SteppeError, match=r"an image is trained on or held out once"):
        read(root, validation=3)
    splits[1].write_text(texts[1])
    assert not [note for note in read(root)[1] if "more than once" in note]
    with pytest.raises(
        SteppeError, match=r"got 4 images that the split names twice, such as .*\.jpg"
    ):
        read(f"{root},{root}")
