import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.vision.data import load
from steppe.vision.data.parquet import find, parquet


def pixels(arrays):
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("image", ["img", "image"])
def test_images_and_labels_come_back(parquet_folder, image):
    folder, arrays = parquet_folder([0, 1, 2, 1], [2, 0], image=image)
    data = load(str(folder))
    assert torch.equal(data.train.images, pixels(arrays["train"]))
    assert data.train.labels.tolist() == [0, 1, 2, 1]
    assert torch.equal(data.test.images, pixels(arrays["test"]))
    assert (data.num_classes, data.classes) == (3, ())


def test_rows_are_found_across_row_groups_and_files(parquet_folder, png):
    folder, arrays = parquet_folder([0, 1] * 5, [0, 1], row_group_size=3)
    more = np.random.default_rng(9).integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
    cells = [{"bytes": png(a), "path": None} for a in more]
    pq.write_table(pa.table({"img": cells, "label": [1, 0]}), folder / "train_more.parquet")
    source = parquet(find(str(folder)))
    assert len(source.train.labels) == 12
    everything = pixels([*arrays["train"], *more])
    for chosen in ([0], [2, 3, 8, 9, 10], [11], list(range(12))):
        assert torch.equal(source.train.decode(chosen), everything[chosen])
    assert source.train.describe(11) == f"row 1 of {folder / 'train_more.parquet'}"


def test_a_pattern_a_file_and_the_hubs_layout(parquet_folder):
    folder, _ = parquet_folder([0, 1], [0, 1])
    data = folder / "data"
    data.mkdir()
    for part in ("train", "test"):
        (folder / f"{part}.parquet").rename(data / f"{part}-00000-of-00001.parquet")
    for name in (folder, data / "*.parquet", data / "train-00000-of-00001.parquet"):
        assert len(load(str(name)).train) == 2


def test_plain_binary_columns_and_class_names(tmp_path, png):
    note = b'{"info": {"features": {"label": {"names": ["cat", "dog", "owl"]}}}}'
    table = pa.table({"image": [png(np.zeros((4, 4)))] * 2, "label": [0, 1]})
    for part in ("train", "validation"):
        pq.write_table(table.replace_schema_metadata({b"huggingface": note}),
                       tmp_path / f"{part}.parquet")  # fmt: skip
    data = load(str(tmp_path))
    assert (data.num_classes, data.classes, data.shape) == (3, ("cat", "dog", "owl"), (1, 4, 4))


def test_the_cache_is_used_and_follows_the_file(parquet_folder, tmp_path, monkeypatch):
    folder, _ = parquet_folder([0, 1, 1], [0, 1])
    first = load(str(folder), cache=tmp_path / "cache")
    with monkeypatch.context() as m:
        m.setattr("steppe.vision.data.encoded.decode", None)  # would fail if it were called
        again = load(str(folder), cache=tmp_path / "cache")
    assert torch.equal(first.train.images, again.train.images)
    _, arrays = parquet_folder([0, 1, 1], [0, 1], shape=(7, 6, 3))
    renewed = load(str(folder), cache=tmp_path / "cache")
    assert torch.equal(renewed.train.images, pixels(arrays["train"]))


@pytest.mark.parametrize(
    ("labels", "rule"),
    [
        ([0, 1, -1], r"at least 0; got -1 in row 2 of .*train.parquet"),
        ([0, None, 1], r"must be integers; got None in row 1"),
        ([0.0, 1.5, 1.0], r"must be integers; got 0.0 in row 0"),
    ],
)
def test_bad_labels_are_named(parquet_folder, labels, rule):
    folder, _ = parquet_folder(labels, [0, 1])
    with pytest.raises(SteppeError, match=rule):
        load(str(folder))


def test_a_test_label_that_training_lacks_is_named(parquet_folder):
    folder, _ = parquet_folder([0, 1], [0, 2])
    with pytest.raises(SteppeError, match=r"below num_classes=2; got 2 in row 1 of .*test.parquet"):
        load(str(folder))
    assert load(str(folder), num_classes=3).num_classes == 3


def test_missing_columns_are_named(parquet_folder):
    folder, _ = parquet_folder([0, 1], [0, 1], image="picture")
    with pytest.raises(SteppeError, match="called img or image; got picture, label in"):
        load(str(folder))
    parquet_folder([0, 1], [0, 1], label="class")
    with pytest.raises(SteppeError, match="called label or labels or fine_label; got img, class"):
        load(str(folder))


def test_what_is_no_image_or_no_parquet_is_named(parquet_folder):
    folder, _ = parquet_folder([0, 1], [0, 1])
    cells = [{"bytes": b"junk", "path": None}] * 2
    pq.write_table(pa.table({"img": cells, "label": [0, 1]}), folder / "test.parquet")
    with pytest.raises(SteppeError, match=r"PIL can decode; got row 0 of .*test.parquet"):
        load(str(folder))
    pq.write_table(pa.table({"img": ["a", "b"], "label": [0, 1]}), folder / "test.parquet")
    with pytest.raises(SteppeError, match=r"must hold encoded images.*got str in row 0"):
        load(str(folder))
    (folder / "test.parquet").write_bytes(b"junk")
    with pytest.raises(SteppeError, match=r"must be a parquet file; got .*test.parquet"):
        load(str(folder))
    (folder / "test.parquet").unlink()
    with pytest.raises(SteppeError, match=r"needs train\*.parquet and test\*.parquet; got train"):
        load(str(folder))


def test_cifar_10_is_read_whole_and_in_part(shared, tmp_path):
    name = str(shared / "data/cifar10-jpeg")
    data = load(name, train_size=500, test_size=100, validation=0.1, cache=tmp_path)
    assert data.train.images.shape == (500, 3, 32, 32)
    assert data.train.labels.bincount().tolist() == [50] * 10
    assert data.validation.labels.bincount().tolist() == [5] * 10
    assert data.test.labels.bincount().tolist() == [10] * 10
    assert data.classes[:2] == ("airplane", "automobile")
    start = time.perf_counter()
    again = load(name, train_size=500, test_size=100, validation=0.1, cache=tmp_path)
    assert time.perf_counter() - start < 5
    assert torch.equal(data.train.images, again.train.images)


def test_a_file_that_says_several_splits_is_refused(parquet_folder):
    folder, _ = parquet_folder([0, 1, 1], [0, 1])
    (folder / "train_test.parquet").write_bytes((folder / "test.parquet").read_bytes())
    with pytest.raises(
        SteppeError, match=r"one split; got train_test\.parquet, which says train, t"
    ):
        load(str(folder))


def test_hidden_copies_and_files_of_no_split_are_left_out_and_said(parquet_folder):
    folder, _ = parquet_folder([0, 1, 1], [0, 1])
    (folder / ".ipynb_checkpoints").mkdir()
    copy = (folder / "train.parquet").read_bytes()
    (folder / ".ipynb_checkpoints" / "train-checkpoint.parquet").write_bytes(copy)
    (folder / "extra.parquet").write_bytes(copy)
    said = []
    assert len(load(str(folder), say=said.append).train) == 3
    assert said == ["1 parquet files are neither train nor test: left out: extra.parquet"]
    (folder / "train_more.parquet").write_bytes(copy)
    assert len(load(str(folder), say=said.append).train) == 6
    assert said[-1] == "read as one split: the files of train and train_more"


def test_several_configurations_below_one_folder_are_refused_and_one_can_be_given(parquet_folder):
    folder, _ = parquet_folder([0, 1, 1], [0, 1])
    for name in ("large", "small one"):
        (folder / name).mkdir()
        for part in ("train", "test"):
            (folder / name / f"{part}.parquet").write_bytes(
                (folder / f"{part}.parquet").read_bytes()
            )
    for part in ("train", "test"):
        (folder / f"{part}.parquet").unlink()
    rule = r"one configuration; got train.parquet and others in 2 folders: large, small one"
    with pytest.raises(SteppeError, match=rule):
        load(str(folder))
    assert len(load(str(folder / "small one")).train) == 3
    # a folder for each split is one configuration
    for part in ("train", "test"):
        (folder / part).mkdir()
        (folder / "large" / f"{part}.parquet").rename(folder / part / f"{part}.parquet")
        (folder / "small one" / f"{part}.parquet").unlink()
    assert len(load(str(folder)).train) == 3


def test_columns_that_have_other_names_are_found_by_what_the_datasets_library_wrote(tmp_path, png):
    note = (
        b'{"info": {"features": {"picture": {"_type": "Image"}, '
        b'"kind": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}}'
    )
    table = pa.table({"kind": [0, 1], "picture": [png(np.zeros((4, 4)))] * 2})
    for part in ("train", "test"):
        pq.write_table(table.replace_schema_metadata({b"huggingface": note}),
                       tmp_path / f"{part}.parquet")  # fmt: skip
    data = load(str(tmp_path))
    assert (data.classes, data.train.labels.tolist()) == (("cat", "dog"), [0, 1])


def test_a_test_split_whose_labels_are_secret_is_passed_over(parquet_folder):
    folder, _ = parquet_folder([0, 1, 1], [1, 0])
    (folder / "test.parquet").rename(folder / "validation.parquet")
    labels = pq.read_table(folder / "validation.parquet")
    secret = labels.set_column(1, "label", [[-1, -1]])
    pq.write_table(secret, folder / "test.parquet")
    data = load(str(folder), say=lambda note: None)
    assert data.test.labels.tolist() == [1, 0]
    assert "test has no labels: tested on validation" in data.notes
