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
    pace = Pace("tokens", lambda: now[0])
    assert pace.row() == {}
    assert pace.shown(5) == ""
    for _ in range(4):
        pace.saw(1000, 1)
    now[0] += 2.0
    assert pace.row() == {"tokens_per_second": 2000.0}
    assert pace.shown(600) == ", 2,000 tokens/s, 5 min left"
    assert Pace("").row() == {}, "images have an accuracy, and no speed in the metrics"
