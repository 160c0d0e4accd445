import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.vision.data.labels import check_labels, select, stratified_order


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
