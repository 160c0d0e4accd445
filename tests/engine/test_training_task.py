"""What the trainer asks of a task, and how fast its data go by."""

import torch

from steppe.engine.training_task import Classification, Pace


def test_a_classification_counts_right_answers_and_smooths_labels():
    task = Classification(label_smoothing=0.1)
    logits, labels = torch.tensor([[2.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 1])
    assert float(task.accuracy(logits, labels)) == 0.5
    plain = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(logits, labels)
    assert torch.equal(task.loss(logits, labels), plain)


def test_the_time_left_is_that_of_the_steps_left():
    now = [100.0]
    pace = Pace("tokens", clock=lambda: now[0])
    assert pace.row() == {}
    assert pace.shown(5) == ""
    for _ in range(4):
        pace.saw(1000, 1)
    now[0] += 2.0
    assert pace.row() == {"tokens_per_second": 2000.0}
    assert pace.shown(600) == ", 2,000 tokens/s, 5 min left"
    assert not Classification().records_pace, "metrics of images are those of any machine"
    assert Classification().count(torch.zeros(7, 3, 2, 2)) == 7


def test_the_time_spent_waiting_for_data_is_told_where_it_counts():
    now = [0.0]
    pace = Pace("images", clock=lambda: now[0])
    with pace.waiting():
        now[0] += 1.0
    now[0] += 3.0
    pace.saw(400, 1)
    assert pace.waited == 0.25
    assert pace.shown(2) == ", 100 images/s (25% waiting for data), 8 s left"
    now[0] += 96.0
    assert "waiting" not in pace.shown(2)


def test_of_data_that_stream_the_share_is_always_told():
    """Also where it is nothing: that is what one looks for."""
    now = [0.0]
    pace = Pace("images", streams=True, clock=lambda: now[0])
    now[0] += 4.0
    pace.saw(400, 1)
    assert pace.shown(2) == ", 100 images/s (0% waiting for data), 8 s left"


def test_mixed_labels_are_right_where_their_largest_share_is():
    shares = torch.tensor([[0.7, 0.3], [0.4, 0.6]])
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    task = Classification()
    assert float(task.accuracy(logits, shares)) == 0.5
    assert torch.equal(task.loss(logits, shares), torch.nn.functional.cross_entropy(logits, shares))
