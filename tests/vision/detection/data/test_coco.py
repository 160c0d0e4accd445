"""COCO's layout, in both forms: what is read, and what is refused."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

import voc_folder
from steppe import SteppeError
from steppe.vision.detection.data import load
from steppe.vision.detection.data.coco import _Split
from steppe.vision.detection.targets import CROWD

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 9, "name": "cow"}]


def whole(folder, first):
    folder.mkdir(parents=True)
    images, annotations = [], []
    for number in range(2):
        file = folder / f"{number}.png"
        Image.fromarray(np.zeros((40, 80, 3), dtype=np.uint8)).save(file)
        size = {"width": 80, "height": 40}
        images.append({"id": first + number, "file_name": file.name} | size)
        boxes = (7, [8, 4, 16, 8], 0), (3, [0, 0, 80, 40], 1), (3, [0, 0, 40, 40], 0)
        for category, box, crowd in boxes:
            entry = {"image_id": first + number, "category_id": category, "bbox": box}
            annotations.append(entry | {"id": len(annotations), "iscrowd": crowd})
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


@pytest.fixture(params=["coco", "beside"])
def root(request, tmp_path):
    for first, split in ((10, "train"), (50, "val")):
        text = json.dumps(whole(tmp_path / split, first))
        if request.param == "coco":
            (tmp_path / "annotations").mkdir(exist_ok=True)
            (tmp_path / f"annotations/instances_{split}.json").write_text(text)
        else:
            (tmp_path / split / "_annotations.coco.json").write_text(text)
    return tmp_path


def json_of(root):
    return next(iter([*root.glob("annotations/*_train.json"), *root.glob("train/*.json")]))


def test_boxes_classes_and_crowds_are_read(root):
    said = []
    data = load(f"coco:{root}", say=said.append)
    assert data.classes == ("dog", "cat")
    wanted = [[0.1, 0.1, 0.3, 0.3, 1, 0], [0, 0, 1, 1, 0, CROWD], [0, 0, 0.5, 1, 0, 0]]
    torch.testing.assert_close(data.train.scenes[0].objects, torch.tensor(wanted))
    assert said == ["trained on train, tested on val", "categories without a training object: cow"]
    assert load(str(root), say=str).classes == data.classes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "{", "annotations must be JSON"),
        (
            lambda text: text.replace('"bbox"', '"box"'),
            "got no bbox in annotation number 1 of .*train",
        ),
        (lambda text: text.replace('"image_id"', '"image"', 1), "got no image_id in annotation"),
        (lambda text: text.replace('"file_name"', '"file"'), "got no file_name in image number 1"),
        (lambda text: text.replace('"name": "dog"', '"n": 1'), "got no name in category number 2"),
        (
            lambda text: text.replace('"category_id": 7', '"category_id": "x"'),
            "got invalid literal",
        ),
        (
            lambda text: text.replace('"annotations"', '"objects"'),
            "no list of annotations in .*keys",
        ),
        (lambda text: "[]", "no list of images in .*no mapping"),
        (lambda text: "", r"annotations must be JSON; got .*line 1 column 1"),
        (lambda text: '{"images": [], "annotations": [], "categories": []}', "no image"),
        (lambda text: text.replace('"id": 11', '"id": 10'), "each image .*such as 10 in .*train"),
        (lambda text: text.replace('"id": 9', '"id": 3'), "each category .*such as 3 in"),
        (
            lambda text: text.replace('"id": 1, "iscrowd"', '"id": 0, "iscrowd"'),
            "each annotation .*1 id of several, such as 0 in",
        ),
        (
            lambda text: text.replace('"1.png"', '"0.png"'),
            "has a file of its own; got 1 file of several, such as 0.png",
        ),
        (
            lambda text: text.replace("[8, 4, 16, 8]", "[8, 4, 16]"),
            r"left, top, width and height; got \[8, 4, 16\] in annotation 0 of",
        ),
        (lambda text: text.replace('"0.png"', '"9.png"'), r"no 9\.png of"),
        (
            lambda text: text.replace('"annotations": [', '"annotations": [3, '),
            "got '3', which is no mapping, in annotation number 1",
        ),
        (
            lambda text: text.replace("[8, 4, 16, 8]", "[8, 4, 0, 8]"),
            r"annotation 0 of .*, without area: left 8, top 4, width 0, height 8 "
            r"\(counted from 0\) in an image of 80 x 40 pixels",
        ),
        (lambda text: text.replace('"width": 80', '"width": 81'), "annotated as 81 x 40"),
        (
            lambda text: text.replace('"category_id": 7', '"category_id": 8'),
            "every class|known class",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(root, change, said):
    file = json_of(root)
    file.write_text(change(file.read_text()))
    with pytest.raises(SteppeError, match=said) as refused:
        load(f"coco:{root}", say=str)
    assert "\n" not in str(refused.value)
    assert "Way out: " in str(refused.value)


def test_a_split_that_is_not_there_is_refused(root):
    said = "none for train2014 in .*--set data.train_split=NAME, of train, val"
    with pytest.raises(SteppeError, match=said):
        load(f"coco:{root}", train_split="train2014", say=str)
    for file in root.glob("annotations/*_val.json"):
        file.unlink()
    for file in root.glob("val/*.json"):
        file.unlink()
    said = "none for val2017 or test or val or valid .*of train, or write one with images that no"
    with pytest.raises(SteppeError, match=said):
        load(f"coco:{root}", say=str)


def test_a_folder_of_another_layout_is_named_as_what_it_is(root, tmp_path):
    for name in (f"voc:{root}", f"hub:{root}"):
        with pytest.raises(SteppeError, match=f"Way out: --data coco:{root}"):
            load(name, say=str)
    voc = voc_folder.write(tmp_path / "voc")
    with pytest.raises(SteppeError, match=f"Way out: --data voc:{voc}"):
        load(f"coco:{voc}", say=str)
    with pytest.raises(SteppeError, match=r"nowhere, which is not there.*--data coco:FOLDER"):
        load("coco:nowhere", say=str)


def test_rows_from_the_end_and_slices_are_those_of_a_list(root):
    split = _Split(root, "train", json_of(root))
    every = list(split)
    assert split[-1] == every[-1]
    assert split[::-1] == every[::-1]
    with pytest.raises(IndexError):
        split[len(split)]


def test_annotations_of_images_that_are_not_listed_are_counted(root):
    file, said = json_of(root), []
    file.write_text(file.read_text().replace('"image_id": 11', '"image_id": 99'))
    data = load(f"coco:{root}", say=said.append)
    assert len(data.train.scenes[1].objects) == 0
    assert any(note.startswith("3 annotations of images") for note in said)


def test_a_category_of_such_annotations_alone_is_no_class(root):
    file, said = json_of(root), []
    whole = json.loads(file.read_text())
    whole["annotations"].append({"image_id": 99, "category_id": 9, "bbox": [8, 4, 16, 8], "id": 6})
    file.write_text(json.dumps(whole))
    assert load(f"coco:{root}", say=said.append).classes == ("dog", "cat")
    assert "categories without a training object: cow" in said


def test_a_class_of_crowds_alone_cannot_be_learned(root):
    file = json_of(root)
    file.write_text(file.read_text().replace('"iscrowd": 0', '"iscrowd": 1'))
    with pytest.raises(SteppeError, match="every class must have a training object; got none of"):
        load(f"coco:{root}", say=str)


def test_objects_take_little_memory_and_polygons_none(tmp_path):
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(50)]
    polygon = [[round(n / 7, 2) for n in range(100)]]
    entry = {"category_id": 7, "bbox": [8.5, 4.25, 16.5, 8.75], "segmentation": polygon}
    count = 200 * len(images)
    objects = [entry | {"id": n, "image_id": n % len(images)} for n in range(count)]
    text = json.dumps({"images": images, "annotations": objects, "categories": CATEGORIES})
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"annotations/instances_{split}.json").write_text(text)
    file = tmp_path / "annotations/instances_train.json"
    for split in ("train", "val"):
        folder = tmp_path / "images" / split
        folder.mkdir(parents=True)
        for one in images:
            Image.fromarray(np.zeros((40, 80, 3), dtype=np.uint8)).save(folder / one["file_name"])
    tracemalloc.start()
    try:
        split = _Split(tmp_path, "train", file)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100 * count
    assert peak < 2 * len(text) + 1000 * count, "beside the text and plain numbers"
    assert [o.where for o in split[3].objects[:2]] == [f"annotation {n} of {file}" for n in (3, 53)]
    scenes = load(f"coco:{tmp_path}", say=str).train.scenes
    assert [len(scene.objects) for scene in scenes] == [200] * 50
    assert len({scene.objects.untyped_storage().data_ptr() for scene in scenes}) == 1


def test_objects_belong_to_their_images_in_any_order_of_the_file(root):
    file = json_of(root)
    whole = json.loads(file.read_text())
    wanted = load(f"coco:{root}", say=str)
    whole["annotations"].reverse()
    whole["images"].reverse()
    file.write_text(json.dumps(whole))
    got = load(f"coco:{root}", say=str)
    for one, other in zip(wanted.train, reversed(got.train.scenes), strict=True):
        assert one.where == other.where
        assert torch.equal(one.objects, other.objects.flip(0))
