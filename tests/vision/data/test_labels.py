import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.vision.data.base import Rows, Source
from steppe.vision.data.labels import check_labels, labels_of, select, stratified_order


@pytest.mark.parametrize(
    ("labels", "rule"),
    [
        ([0, 1, -1], "at least 0 and below num_classes=3; got -1 in row 2"),
        ([0, 3], "got 3 in row 1"),
        ([0, 1.0], "labels must be integers; got 1.0 in row 1"),
        ([0, None], "labels must be integers; got None in row 1"),
        (["0"], "labels must be integers; got '0' in row 0"),
        ([True, False], "must be integers; got True in row 0"),
        ([], "must have rows"),
    ],
)
def test_a_bad_label_is_named_by_its_row(labels, rule):
    with pytest.raises(SteppeError, match=rule):
        check_labels(labels, "row {}".format, num_classes=3)


def test_a_negative_label_is_found_before_the_classes_are_counted():
    with pytest.raises(SteppeError, match="at least 0; got -2 in row 1"):
        check_labels([5, -2], "row {}".format, num_classes=None)


@pytest.mark.parametrize("k", [1, 7, 40, 133, 200])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_prefix_keeps_the_classes_in_proportion(k, seed):
    labels = torch.tensor([0] * 100 + [2] * 60 + [3] * 40)[torch.randperm(200)]
    counts = labels[stratified_order(labels, seed)[:k]].bincount(minlength=4)
    expected = torch.tensor([100, 0, 60, 40]) * k / 200
    assert (counts - expected).abs().max() <= 1


def test_balanced_classes_stay_exactly_balanced():
    labels = torch.arange(1000) % 10
    order = stratified_order(labels, seed=3)
    assert sorted(order.tolist()) == list(range(1000))
    assert labels[order[:250]].bincount().tolist() == [25] * 10
    assert not torch.equal(order, stratified_order(labels, seed=4))


def test_a_smaller_selection_is_part_of_a_larger_one():
    labels = torch.arange(300) % 7
    small, large = (set(select(labels, size, 10, seed=0)[0]) for size in (50, 120))
    assert small < large


@pytest.mark.parametrize(
    ("size", "held_out", "expected"),
    [(None, 0, (100, 0)), (None, 0.2, (80, 20)), (40, 0.1, (40, 4)), (90, 10, (90, 10))],
)
def test_sizes(size, held_out, expected):
    used, validation = select(torch.arange(100) % 4, size, held_out, seed=0)
    assert (len(used), len(validation)) == expected
    assert not set(used) & set(validation)
    assert used == sorted(used)


def test_nothing_may_be_left_to_train_on():
    with pytest.raises(SteppeError, match="validation=100"):
        select(torch.arange(100) % 4, None, 100, seed=0)


def made(train, test=None, num_classes=None, classes=()):
    rows = [Rows(labels, lambda chosen: None, "row {}".format) for labels in (train, test or train)]
    return labels_of(Source(*rows, classes), num_classes)


@pytest.mark.parametrize(
    ("stored", "labels", "classes", "said"),
    [
        ([7, 100_000] * 2, [0, 1, 0, 1], ("7", "100000"), "2 numbers from 7 to 100000: taken for"),
        ([[0], [1]] * 2, [0, 1, 0, 1], (), "lists of one"),
        ([(1,), (0,)], [1, 0], (), "lists of one"),
        (["dog", "cat", "cat"], [1, 0, 0], ("cat", "dog"), "2 texts: numbered in alphabetical"),
        ([["b"], ["a"]] * 2, [1, 0, 1, 0], ("a", "b"), "lists of one"),
        ([1, 2] * 2, [1, 2, 1, 2], (), None),
    ],
)
def test_labels_of_any_form_become_numbers_of_classes(stored, labels, classes, said):
    found = made(stored)
    assert found.train.tolist() == found.test.tolist() == labels
    assert (found.classes, found.num_classes) == (classes, max(labels) + 1)
    assert (said or "train: no image of 1 of 3 classes: 0") in found.notes[0]


def test_ids_stay_where_the_number_of_classes_is_known():
    assert made([7, 30], num_classes=40).train.tolist() == [7, 30]
    assert made([7, 30], classes=tuple("a" * 40)).num_classes == 40
    with pytest.raises(SteppeError, match=r"a test image's label .* got 8 in row 1"):
        made([7, 100_000] * 2, [7, 8])


def test_labels_that_only_test_images_have_are_kept_by_the_way_out():
    train, test = [0, 5, 9] * 2, [0, 5, 9, 3]
    with pytest.raises(SteppeError, match="got 3 in row 3") as refused:
        made(train, test)
    assert "num_classes=10 takes all labels as they are" in refused.value.way_out
    assert made(train, test, num_classes=10).test.tolist() == test
    with pytest.raises(SteppeError) as refused:
        made(train, [0, -1])
    assert refused.value.way_out == "correct that row, or remove it"
    assert "num_classes=10 keeps them" in made(train).notes[0]


@pytest.mark.parametrize(
    ("stored", "rule"),
    [
        ([[0, 1], [1]], r"an image has one label; got \[0, 1\] in row 0"),
        ([[], [1]], r"one label; got \[\] in row 0"),
        ([[[0]], [[1]]], r"one label; got \[\[0\]\] in row 0"),
        ([0, [1, 2]], "one label"),
        ([0.0, 1.0], "labels must be integers; got 0.0 in row 0"),
        ([0, None], "labels must be integers; got None in row 1"),
        (["a", None], "labels must be integers; got 'a' in row 0"),
        (["a photo", "another", "a third", "one more"], "must be that of several images"),
    ],
)
def test_what_is_no_label_is_named(stored, rule):
    with pytest.raises(SteppeError, match=rule):
        made(stored)
